//! What a function is called with.

use std::any::type_name;

use glowbox_abi::wire::{self, WireError};
use serde::Serialize;

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// The arguments of a call: a tuple of up to twelve serde values, `()` for none.
///
/// A tuple of one is written with a comma: `("World",)`. Byte buffers (`&[u8]`, `Vec<u8>`) are
/// copied in one piece.
pub trait Arguments: sealed::Sealed {
    /// The arguments' types, as `std::any::type_name` gives them.
    #[doc(hidden)]
    fn types() -> Vec<&'static str>;

    /// Writes them to the start of `space` and returns how many bytes they took. On
    /// [`WireError::TooLarge`], `needed` is what all of them take.
    #[doc(hidden)]
    fn encode(&self, space: &mut [u8]) -> Result<usize, WireError>;

    /// Bytes that all of them take.
    #[doc(hidden)]
    fn encoded_size(&self) -> Result<usize, WireError>;
}

macro_rules! tuples {
    ($($($param:ident $index:tt)*;)*) => {
        $(
            impl<$($param: Serialize),*> sealed::Sealed for ($($param,)*) {}

            impl<$($param: Serialize),*> Arguments for ($($param,)*) {
                fn types() -> Vec<&'static str> {
                    vec![$(type_name::<$param>()),*]
                }

                #[allow(unused_mut, unused_variables, reason = "for the empty tuple")]
                fn encode(&self, space: &mut [u8]) -> Result<usize, WireError> {
                    let (available, mut used) = (space.len(), 0);
                    $(
                        used += match wire::encode(&self.$index, &mut space[used..]) {
                            Ok(length) => length,
                            Err(WireError::TooLarge { .. }) => {
                                let needed = self.encoded_size()?;
                                return Err(WireError::TooLarge { needed, space: available });
                            }
                            Err(error) => return Err(error),
                        };
                    )*
                    Ok(used)
                }

                fn encoded_size(&self) -> Result<usize, WireError> {
                    Ok(0 $(+ wire::encoded_size(&self.$index)?)*)
                }
            }
        )*
    };
}

tuples! {
    ;
    A 0;
    A 0 B 1;
    A 0 B 1 C 2;
    A 0 B 1 C 2 D 3;
    A 0 B 1 C 2 D 3 E 4;
    A 0 B 1 C 2 D 3 E 4 F 5;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11;
}
