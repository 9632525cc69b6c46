//! Decoding what nobody vouches for.
//!
//! A format without delimiters decodes what its input claims. Two claims cost more than the bytes
//! they are made with: that a recursive value is very deep (each level takes stack), and that a
//! sequence of elements without bytes, such as `()`, is very long (each takes time). [`Limited`]
//! wraps any deserializer and refuses both: more than [`MAX_DEPTH`] levels, and more elements in all
//! than the input has bytes, with some to spare.
//!
//! Only elements of sequences and maps count, whose number the input claims: the fields of a struct
//! and the members of a tuple or an array are the type's. An element that takes a byte or more never
//! meets the bound, since each has a first byte of its own. So a decoded value takes at most as many times
//! its input's bytes as the largest of its elements takes: for `Vec<String>` that is 24.
//!
//! What decodes no message but a file that nobody vouches for has one more bound: how much memory all
//! elements may take that are more than a byte, whatever their encodings take.

use core::cell::Cell;
use core::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Deepest nesting of sequences, maps, options, structs and enums.
pub(crate) const MAX_DEPTH: u32 = 128;
/// Elements that any input may have beyond its bytes.
const SPARE_ELEMENTS: usize = 1024;

/// Bytes that any element counts for at least, other than a byte: with what a reference-counted value or an
/// entry of a map takes besides.
const ELEMENT: usize = 128;

/// What may still be decoded.
#[derive(Debug)]
pub(crate) struct Budget {
    depth: Cell<u32>,
    elements: Cell<usize>,
    /// Bytes that elements may take.
    room: Cell<usize>,
    /// Why decoding was given up; formats without text in their errors would lose it.
    refusal: Cell<Option<&'static str>>,
}

impl Budget {
    /// The budget of an input of that many bytes.
    pub(crate) fn of(bytes: usize) -> Budget {
        Budget::within(bytes, usize::MAX)
    }

    /// The same, where elements may take no more than `room`.
    pub(crate) fn within(bytes: usize, room: usize) -> Budget {
        Budget {
            depth: Cell::new(MAX_DEPTH),
            elements: Cell::new(bytes.saturating_add(SPARE_ELEMENTS)),
            room: Cell::new(room),
            refusal: Cell::new(None),
        }
    }

    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.refusal.get()
    }

    fn refuse<E: Error>(&self, reason: &'static str) -> E {
        self.refusal.set(Some(reason));
        E::custom(reason)
    }

    /// Runs `inner` one level deeper.
    fn nested<T, E: Error>(&self, inner: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let Some(left) = self.depth.get().checked_sub(1) else {
            return Err(self.refuse("it nests more than 128 levels deep"));
        };
        self.depth.set(left);
        let result = inner();
        self.depth.set(left + 1);
        result
    }

    /// Takes the room of an element of this type, with some more for what it points to or stands in. Bytes
    /// take none: there are no more of them than the input has.
    fn room_for<T, E: Error>(&self) -> Result<(), E> {
        if size_of::<T>() <= 1 {
            return Ok(());
        }
        let Some(left) = self.room.get().checked_sub(size_of::<T>().max(ELEMENT)) else {
            return Err(self.refuse("its elements take more memory than they may"));
        };
        self.room.set(left);
        Ok(())
    }

    fn elements<E: Error>(&self, count: usize) -> Result<(), E> {
        let Some(left) = self.elements.get().checked_sub(count) else {
            return Err(self.refuse("it claims more elements than it has bytes"));
        };
        self.elements.set(left);
        Ok(())
    }
}

/// A deserializer, visitor, seed or access, within a budget.
pub(crate) struct Limited<'b, T> {
    inner: T,
    budget: &'b Budget,
    /// For a visitor: it is for a sequence or map, whose length the input claims. For an access: its
    /// elements have still to be charged.
    claimed: bool,
    /// For an access: its elements' number is claimed, and each takes room.
    takes_room: bool,
}

impl<'b, T> Limited<'b, T> {
    pub(crate) fn new(inner: T, budget: &'b Budget) -> Self {
        Limited { inner, budget, claimed: false, takes_room: false }
    }

    fn of_claimed_length(inner: T, budget: &'b Budget) -> Self {
        Limited { claimed: true, ..Limited::new(inner, budget) }
    }

    /// Charges a claimed length at once; the elements of one that is not known, one by one.
    fn of_access<A, E: Error>(&self, of: A, hint: Option<usize>) -> Result<Limited<'b, A>, E> {
        if let (true, Some(length)) = (self.claimed, hint) {
            self.budget.elements(length)?;
        }
        let claimed = self.claimed && hint.is_none();
        Ok(Limited { inner: of, budget: self.budget, claimed, takes_room: self.claimed })
    }

    /// Takes the room of an element of this type.
    fn room_for<V, E: Error>(&self) -> Result<(), E> {
        if self.takes_room { self.budget.room_for::<V, E>() } else { Ok(()) }
    }

    /// Charges an element of a sequence whose length is not known.
    fn one_more<E: Error>(&self) -> Result<(), E> {
        if self.claimed { self.budget.elements(1) } else { Ok(()) }
    }
}

macro_rules! deserialize {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V)
            -> Result<V::Value, D::Error>
        {
            self.inner.$method($($argument,)* Limited::new(visitor, self.budget))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Limited<'_, D> {
    type Error = D::Error;

    deserialize! {
        deserialize_any(); deserialize_bool(); deserialize_i8(); deserialize_i16();
        deserialize_i32(); deserialize_i64(); deserialize_i128(); deserialize_u8();
        deserialize_u16(); deserialize_u32(); deserialize_u64(); deserialize_u128();
        deserialize_f32(); deserialize_f64(); deserialize_char(); deserialize_str();
        deserialize_string(); deserialize_bytes(); deserialize_byte_buf(); deserialize_option();
        deserialize_unit(); deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_tuple(length: usize);
        deserialize_tuple_struct(name: &'static str, length: usize);
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier(); deserialize_ignored_any();
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Limited::of_claimed_length(visitor, self.budget))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Limited::of_claimed_length(visitor, self.budget))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($type:ty);)*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Limited<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool); visit_i8(i8); visit_i16(i16); visit_i32(i32); visit_i64(i64);
        visit_i128(i128); visit_u8(u8); visit_u16(u16); visit_u32(u32); visit_u64(u64);
        visit_u128(u128); visit_f32(f32); visit_f64(f64); visit_char(char); visit_str(&str);
        visit_borrowed_str(&'de str); visit_string(alloc::string::String); visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]); visit_byte_buf(alloc::vec::Vec<u8>);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, of: D) -> Result<V::Value, D::Error> {
        self.budget.nested(|| self.inner.visit_some(Limited::new(of, self.budget)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, of: D) -> Result<V::Value, D::Error> {
        self.budget.nested(|| self.inner.visit_newtype_struct(Limited::new(of, self.budget)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, of: A) -> Result<V::Value, A::Error> {
        let hint = of.size_hint();
        let access = self.of_access(of, hint)?;
        self.budget.nested(|| self.inner.visit_seq(access))
    }

    fn visit_map<A: MapAccess<'de>>(self, of: A) -> Result<V::Value, A::Error> {
        let hint = of.size_hint();
        let access = self.of_access(of, hint)?;
        self.budget.nested(|| self.inner.visit_map(access))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, of: A) -> Result<V::Value, A::Error> {
        self.budget.nested(|| self.inner.visit_enum(Limited::new(of, self.budget)))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Limited<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, of: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Limited::new(of, self.budget))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Limited<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.one_more()?;
        let found = self.inner.next_element_seed(Limited::new(seed, self.budget))?;
        if found.is_some() {
            self.room_for::<T::Value, A::Error>()?;
        }
        Ok(found)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Limited<'_, A> {
    type Error = A::Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.one_more()?;
        let found = self.inner.next_key_seed(Limited::new(seed, self.budget))?;
        if found.is_some() {
            self.room_for::<T::Value, A::Error>()?;
        }
        Ok(found)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.room_for::<T::Value, A::Error>()?;
        self.inner.next_value_seed(Limited::new(seed, self.budget))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Limited<'b, A> {
    type Error = A::Error;
    type Variant = Limited<'b, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(Limited::new(seed, self.budget))?;
        Ok((value, Limited::new(variant, self.budget)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Limited<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(Limited::new(seed, self.budget))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(length, Limited::new(visitor, self.budget))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Limited::new(visitor, self.budget))
    }
}
