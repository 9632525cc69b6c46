//! Calls into the guest: types, signatures, handles, sizes.

use std::collections::BTreeMap;

use glowbox::ErrorKind;
use testing_types::{Everything, Shape};

use crate::guests::PREBUILT;
use crate::support::{Point, builder, error, guest, leave_out, sandbox};

pub(crate) fn everything() -> Everything {
    let inner = Everything {
        integers: (u8::MAX, i8::MIN, u16::MAX, i16::MIN, u32::MAX, i32::MIN, u64::MAX, i64::MIN),
        wide: (u128::MAX, i128::MIN),
        floats: (f32::MIN_POSITIVE, f64::NEG_INFINITY),
        flag: true,
        letter: '☃',
        text: "naïve\0text".into(),
        bytes: (0..=255).collect(),
        list: vec![
            Shape::Empty,
            Shape::Circle(1.5),
            Shape::Rectangle { width: -0.0, height: 2.0 },
            Shape::Line(1, 2),
        ],
        table: BTreeMap::from([("a".into(), Some(1)), ("b".into(), None)]),
        nested: None,
        array: [1, 2, 3, 4],
        unit: (),
    };
    Everything { nested: Some(Box::new(inner.clone())), ..inner }
}

tests! {
    fn functions_and_parameters_may_be_called_as_one_likes() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, u32>("bytes", (2u32, 3u32)).unwrap(), 231);
        assert_eq!(sandbox.call::<_, u32>("handler", (4u32, 5u32)).unwrap(), 451);
    }

    fn every_serde_shape_survives_the_way_in_and_out() {
        let mut sandbox = sandbox();
        let sent = everything();
        let back: Everything = sandbox.call("echo_everything", (&sent,)).unwrap();
        assert_eq!(back, sent);
    }

    fn long_lists_of_small_records_survive_in_all_directions() {
        let points: Vec<Point> = (0..50_000u32).map(|n| Point { x: n.to_le_bytes()[0], y: 1 }).collect();
        let mut sandbox = sandbox();
        let back: Vec<Point> = sandbox.call("echo_points", (&points,)).unwrap();
        assert_eq!(back, points);
        let back: Vec<Point> = sandbox.call("call_host_points", (&points,)).unwrap();
        assert_eq!(back, points);
    }

    fn strings_and_bytes_of_every_size_survive() {
        let mut sandbox = sandbox();
        for size in [0, 1, 127, 128, 4095, 4096, 70_000, 3 << 20] {
            let data: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[0] ^ 0x5a).collect();
            assert_eq!(sandbox.call::<_, Vec<u8>>("echo", (&data[..],)).unwrap(), data);
            assert_eq!(sandbox.call::<_, Vec<u8>>("echo_owned", (&data,)).unwrap(), data);
            let text = "ü".repeat(size as usize / 2);
            assert_eq!(sandbox.call::<_, String>("echo_text", (text.as_str(),)).unwrap(), text);
        }
    }

    fn functions_take_up_to_twelve_arguments_and_none() {
        let mut sandbox = sandbox();
        let twelve = (1u8, 2u8, 3u8, 4u8, 5u8, 6u8, 7u8, 8u8, 9u8, 10u8, 11u8, 12u8);
        let back: (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8) =
            sandbox.call("twelve", twelve).unwrap();
        assert_eq!(back, twelve);
        sandbox.call::<_, ()>("nothing", ()).unwrap();
    }

    fn results_may_borrow_from_arguments() {
        let mut sandbox = sandbox();
        let word: String = sandbox.call("first_word", ("re-do it", "re-")).unwrap();
        assert_eq!(word, "do");
    }

    fn aliases_of_known_types_are_the_same_type() {
        let mut sandbox = sandbox();
        let sum: u32 = sandbox.call("aliased", (1u32, vec![Some(2u32), None, Some(3)])).unwrap();
        assert_eq!(sum, 6);
    }

    fn a_sandbox_keeps_its_state_between_calls() {
        let mut sandbox = sandbox();
        for expected in 1..=3 {
            assert_eq!(sandbox.call::<_, u32>("count", ()).unwrap(), expected);
        }
        let mut other = crate::support::sandbox();
        assert_eq!(other.call::<_, u32>("count", ()).unwrap(), 1);
    }

    fn an_unknown_function_is_an_error_that_names_the_known_ones() {
        let mut sandbox = sandbox();
        let error = error(sandbox.call::<_, u32>("ad", (1u32, 2u32)));
        assert_eq!(error.kind(), ErrorKind::UnknownFunction);
        assert!(error.to_string().contains("`ad`"), "{error}");
        assert!(error.to_string().contains("add, "), "{error}");
        assert!(!sandbox.is_spent());
    }

    fn a_wrong_signature_is_an_error_with_both_when_the_handle_is_taken() {
        let sandbox = sandbox();
        for error in [
            error(sandbox.function::<(u32, u64), u32>("add")),
            error(sandbox.function::<(u32,), u32>("add")),
            error(sandbox.function::<(u32, u32), u64>("add")),
            error(sandbox.function::<(u32, u32), ()>("add")),
        ] {
            assert_eq!(error.kind(), ErrorKind::SignatureMismatch);
            assert!(error.to_string().contains("add(a: u32, b: u32) -> u32"), "{error}");
            assert!(error.to_string().contains("called as `add(u32"), "{error}");
        }
        let mut sandbox = sandbox;
        let error = error(sandbox.call::<_, String>("add", (1u32, 2u32)));
        assert_eq!(error.kind(), ErrorKind::SignatureMismatch);
        assert_eq!(sandbox.stats().calls, 0);
    }

    fn a_handle_serves_every_sandbox_of_its_guest_and_any_lifetime() {
        let guest = guest("testing");
        let mut one = builder().build(&guest).unwrap();
        let mut two = builder().build(&guest).unwrap();
        let echo = one.function::<(&str,), String>("echo_text").unwrap();
        for sandbox in [&mut one, &mut two] {
            let local = String::from("local");
            assert_eq!(echo.call(sandbox, (local.as_str(),)).unwrap(), "local");
        }
        assert_eq!(echo.clone().name(), "echo_text");
    }

    fn a_handle_of_another_guest_is_refused() {
        let mut testing = sandbox();
        let hello = builder()
            .host_function("weekday", String::new)
            .build(guest("hello"))
            .unwrap();
        let greet = hello.function::<(&str,), String>("greet").unwrap();
        let error = error(greet.call(&mut testing, ("x",)));
        assert_eq!(error.kind(), ErrorKind::WrongGuest);
        assert_eq!(testing.stats().calls, 0);
    }

    fn arguments_that_do_not_fit_are_refused_with_both_sizes_before_the_guest_runs() {
        let mut sandbox = builder().message_size(8192).build(guest("testing")).unwrap();
        let data = vec![0u8; 9000];
        let entries = sandbox.stats().entries;
        let error = error(sandbox.call::<_, Vec<u8>>("echo", (&data[..],)));
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
        assert!(error.to_string().contains("9002") && error.to_string().contains("8192"), "{error}");
        assert_eq!(sandbox.stats().entries, entries);
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    }

    fn a_result_that_does_not_fit_is_an_error_and_the_sandbox_goes_on() {
        let mut sandbox = builder().message_size(8192).build(guest("testing")).unwrap();
        let error = error(sandbox.call::<_, Vec<u8>>("large_result", (9000u32,)));
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
        assert!(error.to_string().contains("9002") && error.to_string().contains("8192"), "{error}");
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    }

    fn a_type_of_the_same_name_but_another_structure_is_an_error() {
        mod other {
            #[derive(Debug, serde::Serialize, serde::Deserialize)]
            pub(super) struct Everything(u8);
            pub(super) fn value() -> Everything {
                Everything(1)
            }
        }
        let mut sandbox = sandbox();
        let error = error(
            sandbox.call::<_, other::Everything>("echo_everything", (other::value(),)),
        );
        assert_eq!(error.kind(), ErrorKind::BadArguments);
        assert!(!sandbox.is_spent());
    }

    fn a_guest_that_is_lent_nothing_finds_nothing() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, Vec<String>>("map_names", ()).unwrap(), [""; 0]);
        assert_eq!(sandbox.call::<_, Option<u64>>("map_length", ("x",)).unwrap(), None);
    }

    fn the_memory_functions_of_the_guest_library_are_right() {
        let mut sandbox = sandbox();
        let checks: u32 = sandbox.call("check_memory_functions", ()).unwrap();
        assert!(checks > 1000);
    }

    fn a_guest_crate_is_a_manifest_with_one_dependency_and_a_main() {
        if std::env::var_os(PREBUILT).is_some() {
            return leave_out("there is no cargo to build a guest with");
        }
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("one-dependency");
        std::fs::create_dir_all(folder.join("src")).unwrap();
        let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest");
        let manifest = format!(
            "[package]\nname = \"greeter\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\nglowbox-guest = {{ path = {library:?} }}\n"
        );
        std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        let main = include_str!("../../../../guests/hello/src/main.rs");
        std::fs::write(folder.join("src/main.rs"), main).unwrap();
        let greeter = glowbox_build::Guest::new(&folder).build().unwrap_or_else(|e| panic!("{e}"));
        let mut sandbox = glowbox::Sandbox::builder()
            .host_function("weekday", || "Monday".to_string())
            .build(greeter.path())
            .unwrap();
        let greeting: String = sandbox.call("greet", ("World",)).unwrap();
        assert_eq!(greeting, "Hello, World! Today is Monday.");
    }

    fn functions_and_imports_can_be_listed_without_running() {
        let guest = guest("testing");
        let find = |name| {
            let mut functions = guest.functions();
            functions.find(|(found, _)| *found == name).unwrap().1.to_string()
        };
        assert_eq!(find("add"), "(a: u32, b: u32) -> u32");
        assert_eq!(find("divide"), "(a: u32, b: u32) -> Result<u32, MathError>");
        // An error that can't be encoded crosses as its text.
        assert_eq!(find("parse"), "(text: String) -> Result<u32, String>");
        assert_eq!(find("aliased_result"), "(flag: bool) -> Result<u32, Error>".replace("flag", "fail"));
        let imports: Vec<_> = guest.imports().map(|(name, _)| name.to_string()).collect();
        assert!(imports.contains(&"host_add".to_string()), "{imports:?}");
    }
}
