//! Both ways, against what serde makes of the same values.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::time::Duration;

use fastrand::Rng;
use glowbox_core::signature::TypeName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

fn of(name: &str) -> Type {
    Type::of(&TypeName::parse(name).unwrap()).unwrap()
}

fn wire<T: Serialize>(value: &T) -> Vec<u8> {
    let mut space = vec![0; glowbox_abi::wire::encoded_size(value).unwrap()];
    let length = glowbox_abi::wire::encode(value, &mut space).unwrap();
    space.truncate(length);
    space
}

fn encoded(json: &str, of: &Type) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    encode(json, of, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

/// What serde writes as JSON is encoded as serde encodes the value; and what comes back as JSON,
/// serde reads as the value.
fn agrees<T>(value: T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let of = of(std::any::type_name::<T>());
    let (json, bytes) = (serde_json::to_string(&value).unwrap(), wire(&value));
    assert_eq!(encoded(&json, &of).unwrap(), bytes, "{json}");
    let back = decode(&bytes, &of).unwrap();
    assert_eq!(serde_json::from_str::<T>(&back).unwrap(), value, "{back}");
    survives(&bytes, &of);
}

/// Bytes come back from their JSON.
fn survives(bytes: &[u8], of: &Type) {
    let json = decode(bytes, of).unwrap();
    assert_eq!(encoded(&json, of).unwrap(), bytes, "{json}");
}

/// A number with few or many bits.
fn sized(random: &mut Rng) -> u64 {
    let shift = random.u64(..64);
    random.u64(..) >> shift
}

#[test]
fn integers_of_every_size_agree_with_serde() {
    macro_rules! check {
        ($($type:ident)*) => {
            $(for value in [$type::MIN, $type::MIN + 1, 0, 1, 63, 64, 100, $type::MAX - 1, $type::MAX] {
                agrees(value);
                agrees(vec![value, value]);
            })*
        };
    }
    check!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
    let mut random = Rng::with_seed(1);
    for _ in 0..2000 {
        let number = sized(&mut random);
        agrees((number, number.cast_signed(), u128::from(number) << (number % 64)));
        agrees(-(i128::from(number) << (number % 60)));
    }
    agrees(NonZero::<u32>::MIN);
    agrees(NonZero::<i64>::MIN);
}

#[test]
fn floats_come_back_bit_by_bit() {
    let (f32s, f64s) = (of("Vec<f32>"), of("Vec<f64>"));
    let mut random = Rng::with_seed(2);
    for _ in 0..20_000 {
        let bits = random.u64(..);
        let [a, b, c, d, ..] = bits.to_le_bytes();
        let (single, double) = (f32::from_le_bytes([a, b, c, d]), f64::from_bits(bits));
        if !single.is_nan() {
            survives(&wire(&vec![single]), &f32s);
        }
        if !double.is_nan() {
            survives(&wire(&vec![double]), &f64s);
        }
    }
    for single in
        [0.0, -0.0, 1.5, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NEG_INFINITY]
    {
        survives(&wire(&vec![single]), &f32s);
        survives(&wire(&vec![f64::from(single)]), &f64s);
    }
    agrees((0.1f32, 0.1f64, 1e22, 5e-324));
    assert_eq!(encoded("3", &of("f32")).unwrap(), wire(&3f32));
    assert_eq!(decode(&wire(&f64::NAN), &of("f64")).unwrap(), r#""NaN""#);
    let not_a_number = encoded(r#""NaN""#, &of("f32")).unwrap();
    assert!(f32::from_le_bytes(not_a_number.try_into().unwrap()).is_nan());
    // Between two f32s, a little above the middle: by way of an f64, it would round down.
    let text = "1.000000059604644775390626";
    assert_eq!(encoded(text, &of("f32")).unwrap(), wire(&1.000_000_1f32));
    for (text, of_) in [("1e39", "f32"), ("-1e309", "f64")] {
        assert!(encoded(text, &of(of_)).unwrap_err().contains("too large"), "{text}");
    }
    for text in ["null", "\"1.5\"", "\"inf\"", "[1]", "true", "1e", "nan"] {
        assert!(encoded(text, &of("f64")).is_err(), "{text}");
    }
}

#[test]
fn what_serde_nests_nests_here() {
    agrees(true);
    agrees('☃');
    agrees("naïve \"text\"\0\n\u{9b}\u{202e}".to_string());
    agrees(());
    agrees((1u8,));
    agrees([[1u16, 2], [3, 4]]);
    agrees(Some(Some(5u8)));
    agrees(None::<String>);
    agrees(Duration::new(5, 999_999_999));
    agrees(vec![(), ()]);
    agrees(vec![Some("a".to_string()), None]);
    agrees(BTreeSet::from(['a', 'ß']));
    agrees(BTreeMap::from([("b".to_string(), vec![1i16]), ("a".to_string(), vec![])]));
    agrees(BTreeMap::from([(-1i32, true), (7, false)]));
    agrees(BTreeMap::from([('x', 1u8)]));
    agrees(BTreeMap::from([(u128::MAX, 1u8)]));
    agrees(BTreeMap::from([(true, 1u8), (false, 2)]));
    agrees(Ok::<u32, String>(5));
    agrees(vec![Err::<u32, String>("no".into()), Ok(1)]);
    agrees((0..=255u8).collect::<Vec<u8>>());
}

#[test]
fn a_map_that_json_has_no_object_for_is_an_array_of_pairs() {
    let bytes = wire(&BTreeMap::from([((1u8, 2u8), "a"), ((3, 4), "b")]));
    let of = of("BTreeMap<(u8, u8), String>");
    assert_eq!(decode(&bytes, &of).unwrap(), r#"[[[1,2],"a"],[[3,4],"b"]]"#);
    survives(&bytes, &of);
}

#[test]
fn values_of_another_type_are_refused_and_said_where() {
    for (text, name, expected) in [
        ("300", "u8", "invalid value: integer `300`, expected u8"),
        ("-1", "u64", "invalid value: integer `-1`, expected u64"),
        ("1.5", "i32", "invalid type: floating point"),
        ("\"1\"", "i32", "invalid type: string \"1\", expected i32"),
        ("340282366920938463463374607431768211456", "u128", "out of range"),
        ("\"ab\"", "char", "expected a character"),
        ("1", "String", "expected a string"),
        ("0", "NonZero<u8>", "expected another number"),
        ("[1]", "(u8, u8)", "invalid length 1, expected an array of 2"),
        ("[1, 2, 3]", "(u8, u8)", "trailing characters"),
        ("[1, 2, 3]", "[u8; 2]", "trailing characters"),
        ("{\"a\": 1}", "Vec<u8>", "expected an array"),
        ("[1]", "BTreeMap<String, u8>", "expected an object"),
        ("{\"x\": 1}", "BTreeMap<u8, u8>", "expected"),
        ("{}", "Result<u8, u8>", "invalid length 0"),
        ("{\"ok\": 1}", "Result<u8, u8>", "unknown variant `ok`"),
        ("{\"Ok\": 1, \"Err\": 2}", "Result<u8, u8>", "found more"),
        ("1", "()", "expected unit"),
        ("[1, 2", "Vec<u8>", "EOF while parsing a list at line 1 column 5"),
        ("1 2", "u8", "trailing characters at line 1 column 3"),
        ("", "u8", "EOF while parsing a value"),
    ] {
        let error = encoded(text, &of(name)).unwrap_err();
        assert!(error.contains(expected), "{text} as {name}: {error}");
    }
}

#[test]
fn names_that_tell_no_structure_are_refused_by_that_name() {
    for (name, unknown) in [
        ("Order", "Order"),
        ("Vec<Option<shop::Order>>", "Order"),
        ("BTreeMap<String, Page<u8>>", "Page<u8>"),
        ("Option", "Option"),
        ("NonZero<String>", "NonZero<String>"),
        ("[u8; N]", "[u8; N]"),
    ] {
        let error = Type::of(&TypeName::parse(name).unwrap()).unwrap_err();
        assert_eq!(error.name, unknown);
    }
}

#[test]
fn bytes_that_are_no_value_are_refused() {
    for (bytes, name) in [
        (&[2][..], "bool"),
        (&[2], "Option<u8>"),
        (&[0x80, 0x80, 0x04], "u16"),
        (&[0xff, 0xff, 0xff, 0xff, 0x10], "u32"),
        (&[0x80; 30], "u128"),
        (&[2, b'a', b'b'], "char"),
        (&[0], "char"),
        (&[1, 0xff], "String"),
        (&[0], "NonZero<u8>"),
        (&[2, 0], "Result<u8, u8>"),
        (&[1, 2], "u8"),
        (&[0; 3], "f32"),
        (&[], "u8"),
    ] {
        assert!(decode(bytes, &of(name)).is_err(), "{bytes:?} as {name}");
    }
}

#[test]
fn a_length_that_lies_costs_no_more_than_the_bytes_that_are_there() {
    let huge = wire(&u64::MAX);
    for name in ["Vec<u8>", "String", "Vec<()>", "BTreeMap<(), ()>", "Vec<[u8; 0]>", "Vec<Vec<()>>"]
    {
        let mut bytes = huge.clone();
        bytes.extend(&huge);
        assert!(decode(&bytes, &of(name)).is_err(), "{name}");
    }
    let nested = "[".repeat(20) + "()" + &"; 4000000000]".repeat(20);
    assert!(decode(&[], &of(&nested)).is_err());
    assert_eq!(decode(&[100], &of("Vec<()>")).unwrap().matches("null").count(), 100);
}

#[test]
fn whatever_the_bytes_what_comes_of_them_is_json_of_bounded_length() {
    let types = [
        "Vec<(u8, String)>",
        "BTreeMap<String, Option<Vec<i64>>>",
        "(f32, f64, char, bool)",
        "Vec<Result<BTreeMap<i8, ()>, [u16; 3]>>",
        "BTreeMap<(u8, bool), Duration>",
        "u128",
    ];
    let mut random = Rng::with_seed(3);
    let mut values = 0;
    for round in 0..30_000usize {
        let length = random.u64(..24);
        let bytes: Vec<u8> = (0..length).map(|_| sized(&mut random).to_le_bytes()[0]).collect();
        let of = of(types[round % types.len()]);
        if let Ok(json) = decode(&bytes, &of) {
            let length = bytes.len();
            assert!(json.len() < 40 * (length + SPARE), "{} of {length}", json.len());
            serde_json::from_str::<serde::de::IgnoredAny>(&json).expect("it is JSON");
            values += 1;
        }
    }
    assert!(values > 100, "only {values} were values at all");
}

const SPARE: usize = 1100;

#[test]
fn nothing_in_a_string_reaches_a_terminal_as_it_stands() {
    let json = decode(&wire(&"a\u{1b}[2J\u{9b}1m\u{202e}\u{7f}é\n"), &of("String")).unwrap();
    assert_eq!(json, r#""a\u001b[2J\u009b1m\u202e\u007fé\n""#);
    assert_eq!(for_terminals("{\n \"a\u{85}\"\n}"), "{\n \"a\\u0085\"\n}");
}
