//! When a host's idea of a function agrees with the guest's.
//!
//! Both sides name their types: the guest's file holds source-level names, the host has
//! `std::any::type_name`. Neither is compared as it stands; both are parsed and reduced to a
//! *canonical* form in which types that look alike to the wire are the same:
//!
//! - paths lose all but their last segment, lifetimes and references disappear;
//! - `str` is `String`; slices and deques are `Vec`; `Box`, `Rc`, `Arc` and `Cow` are what they
//!   hold; hash and tree maps are `Map`, hash and tree sets are `Set`.
//!
//! So a type is known by its name, not by its structure: two different structs of one name pass
//! the check, and are caught (or not) when a message is decoded. Share the type's crate between
//! host and guest where that matters. Names come from `type_name`, whose output Rust does not
//! promise to keep; if it ever changes, functions are refused with both signatures shown, never
//! called wrongly. See `docs/adr/0002-signatures-by-type-name.md`.

use std::fmt;

/// Characters of a signature that an error shows.
const MAX_SHOWN: usize = 200;
/// Deepest nesting of types in a signature.
const MAX_DEPTH: u32 = 32;

/// A parsed type. Equality is equality of the canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeName {
    /// A name with its parameters.
    Path(String, Vec<TypeName>),
    /// A tuple; `()` is the empty one.
    Tuple(Vec<TypeName>),
    /// An array with its length, as text.
    Array(Box<TypeName>, String),
}

/// A function's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Parameters: name (may be empty) and type.
    pub parameters: Vec<(String, TypeName)>,
    /// The result.
    pub result: TypeName,
}

/// How the type a caller asks for relates to what a function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultMatch {
    /// They are the same, and no `Result`.
    Same,
    /// They are the same `Result`.
    Whole,
    /// The function returns `Result<T, E>` and the caller asks for `T`.
    OkOf,
}

/// A signature's text is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a signature: {problem} at byte {at}")]
pub struct SignatureError {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub problem: &'static str,
    /// Where.
    pub at: usize,
}

impl TypeName {
    /// Parses one type, such as `alloc::vec::Vec<u8>`, into its canonical form.
    ///
    /// # Errors
    ///
    /// [`SignatureError`] for text that is no type or nests deeper than 32 levels.
    pub fn parse(text: &str) -> Result<TypeName, SignatureError> {
        let mut parser = Parser { text, at: 0 };
        let parsed = parser.type_name(0)?;
        parser.end()?;
        Ok(parsed)
    }

    /// Whether a caller that asks for `self` can be served by a function returning `returned`.
    pub fn accepts(&self, returned: &TypeName) -> Option<ResultMatch> {
        match returned {
            TypeName::Path(name, parameters) if name == "Result" => {
                let is_value = parameters.first() == Some(self);
                let value = is_value.then_some(ResultMatch::OkOf);
                if self == returned { Some(ResultMatch::Whole) } else { value }
            }
            _ => (self == returned).then_some(ResultMatch::Same),
        }
    }
}

impl Signature {
    /// Parses a signature such as `(name: String, u32) -> Vec<u8>`.
    ///
    /// # Errors
    ///
    /// [`SignatureError`].
    pub fn parse(text: &str) -> Result<Signature, SignatureError> {
        let mut parser = Parser { text, at: 0 };
        parser.expect("(")?;
        let mut parameters = Vec::new();
        while !parser.take(")") {
            let name = parser.parameter_name();
            parameters.push((name, parser.type_name(0)?));
            if !parser.take(",") {
                parser.expect(")")?;
                break;
            }
        }
        let result =
            if parser.take("->") { parser.type_name(0)? } else { TypeName::Tuple(Vec::new()) };
        parser.end()?;
        Ok(Signature { parameters, result })
    }

    /// A signature from bare types, as a host has them.
    ///
    /// # Errors
    ///
    /// [`SignatureError`].
    pub fn of_types(parameters: &[&str], result: &str) -> Result<Signature, SignatureError> {
        let parameters = parameters
            .iter()
            .map(|text| Ok((String::new(), TypeName::parse(text)?)))
            .collect::<Result<_, SignatureError>>()?;
        Ok(Signature { parameters, result: TypeName::parse(result)? })
    }

    /// Whether parameters and result have the same types, whatever the parameters' names.
    pub fn same_types(&self, other: &Signature) -> bool {
        self.same_parameters(other) && self.result == other.result
    }

    /// Whether the parameters have the same types, whatever their names.
    pub fn same_parameters(&self, other: &Signature) -> bool {
        self.parameters.iter().map(|(_, of)| of).eq(other.parameters.iter().map(|(_, of)| of))
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, types: &[TypeName]| {
            for (index, of) in types.iter().enumerate() {
                let separator = if index > 0 { ", " } else { "" };
                write!(f, "{separator}{of}")?;
            }
            Ok(())
        };
        match self {
            TypeName::Path(name, parameters) if parameters.is_empty() => f.write_str(name),
            TypeName::Path(name, parameters) => {
                write!(f, "{name}<")?;
                list(f, parameters)?;
                f.write_str(">")
            }
            TypeName::Tuple(members) => {
                f.write_str("(")?;
                list(f, members)?;
                f.write_str(if members.len() == 1 { ",)" } else { ")" })
            }
            TypeName::Array(of, length) => write!(f, "[{of}; {length}]"),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, (name, of)) in self.parameters.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            let colon = if name.is_empty() { "" } else { ": " };
            write!(f, "{separator}{name}{colon}{of}")?;
        }
        f.write_str(")")?;
        match &self.result {
            TypeName::Tuple(members) if members.is_empty() => Ok(()),
            result => write!(f, " -> {result}"),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn fail<T>(&self, problem: &'static str) -> Result<T, SignatureError> {
        let mut text: String = self.text.chars().take(MAX_SHOWN).collect();
        if text.len() < self.text.len() {
            text.push('…');
        }
        Err(SignatureError { text, problem, at: self.at })
    }

    fn expect(&mut self, token: &'static str) -> Result<(), SignatureError> {
        if self.take(token) { Ok(()) } else { self.fail("unexpected text") }
    }

    fn end(&mut self) -> Result<(), SignatureError> {
        self.skip_space();
        if self.rest().is_empty() { Ok(()) } else { self.fail("unexpected text") }
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '#';
        let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// The `name:` before a parameter's type, if there is one.
    fn parameter_name(&mut self) -> String {
        let start = self.at;
        let name = self.word();
        self.skip_space();
        if !name.is_empty() && self.rest().starts_with(':') && !self.rest().starts_with("::") {
            self.at += 1;
            return name.to_string();
        }
        self.at = start;
        String::new()
    }

    fn type_name(&mut self, depth: u32) -> Result<TypeName, SignatureError> {
        if depth > MAX_DEPTH {
            return self.fail("types nest too deeply");
        }
        if self.take("&") {
            self.lifetime();
            let start = self.at;
            if self.word() != "mut" {
                self.at = start;
            }
            return self.type_name(depth + 1);
        }
        if self.take("(") {
            return Ok(TypeName::Tuple(self.list(")", depth)?));
        }
        if self.take("[") {
            let of = self.type_name(depth + 1)?;
            if self.take("]") {
                return Ok(TypeName::Path("Vec".into(), vec![of]));
            }
            self.expect(";")?;
            let length = self.word().to_string();
            self.expect("]")?;
            return Ok(TypeName::Array(Box::new(of), length));
        }
        self.path(depth)
    }

    fn lifetime(&mut self) -> bool {
        let found = self.take("'");
        if found {
            self.word();
        }
        found
    }

    /// Types up to `close`, leaving out lifetimes.
    fn list(&mut self, close: &'static str, depth: u32) -> Result<Vec<TypeName>, SignatureError> {
        let mut types = Vec::new();
        while !self.take(close) {
            if !self.lifetime() {
                types.push(self.type_name(depth + 1)?);
            }
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(types)
    }

    fn path(&mut self, depth: u32) -> Result<TypeName, SignatureError> {
        self.take("::");
        let mut name = if self.take("<") {
            // `<Type as Trait>::item`: what follows is what counts.
            self.type_name(depth + 1)?;
            self.expect("as")?;
            self.type_name(depth + 1)?;
            self.expect(">")?;
            self.expect("::")?;
            self.segment()
        } else {
            self.segment()
        };
        let mut parameters = Vec::new();
        loop {
            if name.is_empty() {
                return self.fail("a type is missing");
            }
            if self.take("<") {
                parameters = self.list(">", depth)?;
            }
            if !self.take("::") {
                break;
            }
            if self.take("<") {
                parameters = self.list(">", depth)?;
                break;
            }
            name = self.segment();
        }
        Ok(canonical(name, parameters))
    }

    /// A segment of a path: a word, or what `type_name` prints for a function's inside, such as
    /// `{{closure}}`.
    fn segment(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let length =
            if rest.starts_with("{{") { rest.find("}}").map_or(0, |at| at + 2) } else { 0 };
        if length == 0 {
            return self.word();
        }
        self.at += length;
        &rest[..length]
    }
}

/// The form in which alike types are equal.
fn canonical(name: &str, mut parameters: Vec<TypeName>) -> TypeName {
    let name = match (name, parameters.len()) {
        ("str", 0) => "String",
        ("Box" | "Rc" | "Arc" | "Cow", 1) => return parameters.remove(0),
        ("VecDeque", 1) => "Vec",
        ("HashMap" | "BTreeMap", 2 | 3) => {
            parameters.truncate(2);
            "Map"
        }
        ("HashSet" | "BTreeSet", 1 | 2) => {
            parameters.truncate(1);
            "Set"
        }
        _ => name,
    };
    TypeName::Path(name.to_string(), parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::any::type_name;

    fn same(host: &str, guest: &str) {
        assert_eq!(TypeName::parse(host).unwrap(), TypeName::parse(guest).unwrap());
    }

    #[test]
    fn what_type_name_prints_today_agrees_with_source_names() {
        same(type_name::<&str>(), "String");
        same(type_name::<String>(), "&'a str");
        same(type_name::<Vec<Option<u8>>>(), "Vec<Option<u8>>");
        same(type_name::<&[u8]>(), "Vec<u8>");
        same(type_name::<std::collections::HashMap<String, u32>>(), "BTreeMap<String, u32>");
        same(type_name::<std::collections::HashSet<i8>>(), "Set<i8>");
        same(type_name::<([u8; 32], Box<f64>, ())>(), "([u8; 32], f64, ())");
        same(type_name::<std::borrow::Cow<'static, str>>(), "Cow<'_, str>");
        same(type_name::<Result<Signature, SignatureError>>(), "Result<Signature, SignatureError>");
        same(type_name::<std::rc::Rc<[Signature]>>(), "Vec<crate::Signature>");
    }

    trait Local {
        fn name() -> &'static str;
    }

    impl Local for u8 {
        fn name() -> &'static str {
            struct Inside;
            type_name::<Vec<Inside>>()
        }
    }

    #[test]
    fn types_inside_functions_have_names() {
        struct Outside;
        let inside = || {
            struct Inside;
            type_name::<Option<Inside>>()
        };
        same(type_name::<Outside>(), "Outside");
        same(inside(), "Option<Inside>");
        same(<u8 as Local>::name(), "Vec<Inside>");
        same(type_name::<std::num::NonZeroU32>(), "NonZero<u32>");
    }

    #[test]
    fn an_error_shows_no_more_than_the_start_of_a_long_text() {
        let error =
            Signature::parse(&"(".repeat(if cfg!(miri) { 1 << 10 } else { 1 << 20 })).unwrap_err();
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn different_types_differ() {
        for (a, b) in [("u32", "u64"), ("Vec<u8>", "[u8; 4]"), ("(u8,)", "u8"), ("A<B>", "A<C>")] {
            assert_ne!(TypeName::parse(a).unwrap(), TypeName::parse(b).unwrap());
        }
    }

    #[test]
    fn signatures_print_as_they_are_written() {
        for text in ["()", "(name: String) -> String", "(u32, (u8,), [u8; 4]) -> Result<(), E>"] {
            assert_eq!(Signature::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_value_of_a_result_may_be_asked_for_alone() {
        let returned = TypeName::parse("Result<u32, Error>").unwrap();
        let asked = |text| TypeName::parse(text).unwrap().accepts(&returned);
        assert_eq!(asked("u32"), Some(ResultMatch::OkOf));
        assert_eq!(asked("Result<u32, Error>"), Some(ResultMatch::Whole));
        assert_eq!(asked("u64"), None);
        assert_eq!(asked("Result<u32, Other>"), None);
    }

    #[test]
    fn text_that_is_no_signature_is_an_error() {
        let deep = "(".repeat(10_000);
        let unclosed = "Vec<".repeat(10_000);
        for text in ["", "(", "(u8", "(u8) ->", "(u8) -> u8 u8", "(,)", "(é<)", &deep, &unclosed] {
            assert!(Signature::parse(text).is_err(), "{text}");
        }
        assert!(TypeName::parse(&unclosed).is_err());
    }
}
