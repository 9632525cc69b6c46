//! Guests with the standard library: calls, snapshots, spawning and resets are as for any guest, and
//! what the library does by system calls works. Each test runs with glibc and with musl.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glowbox::{
    Builder, Caller, Clock, Engine, ErrorKind, Input, Loader, Mapping, Output, Sandbox, Snapshot,
};

use crate::support::{error, guest, standard_guests};

/// A builder with all that the guest imports.
fn builder() -> Builder {
    Sandbox::builder()
        .host_function("weekday", || "Monday".to_string())
        .host_function("double", |number: u32| -> Result<u32, glowbox::HostError> {
            number.checked_mul(2).ok_or_else(|| glowbox::HostError::new("too large"))
        })
        .host_function("back", |caller: &mut Caller<'_>| {
            let _: Result<(), _> = caller.call("call_back", ());
        })
}

/// Runs `test` with a sandbox of each library's guest.
fn with_each(test: impl Fn(&mut Sandbox)) {
    for name in standard_guests() {
        test(&mut builder().build(guest(name)).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}

/// Runs `test` with a builder and each guest.
fn build_each(test: impl Fn(Builder, &str)) {
    standard_guests().for_each(|name| test(builder(), name));
}

/// Records of a log, as `target: text`.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<String>>>);

impl Records {
    fn of(builder: Builder) -> (Builder, Records) {
        let records = Records::default();
        let sink = Arc::clone(&records.0);
        let builder = builder.log_sink(move |record| {
            sink.lock().unwrap().push(format!("{}: {}", record.target, record.text));
        });
        (builder, records)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

tests! {
    fn calls_and_host_calls_work_as_for_any_guest() {
        with_each(|sandbox| {
            assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
            let greeting: String = sandbox.call("greet", ("World",)).unwrap();
            assert_eq!(greeting, "Hello, World! Today is Monday.");
            assert_eq!(sandbox.call::<_, u32>("double_it", (21u32,)).unwrap(), 42);
            let refused = error(sandbox.call::<_, u32>("double_it", (u32::MAX,)));
            assert_eq!(refused.kind(), ErrorKind::Guest);
            assert!(refused.to_string().contains("too large"), "{refused}");
            let parse = error(sandbox.call::<_, u32>("parse", ("12x",)));
            assert!(parse.to_string().ends_with("invalid digit found in string"), "{parse}");
            let words: HashMap<String, u32> = sandbox.call("count_words", ("a b a",)).unwrap();
            assert_eq!(words, HashMap::from([("a".to_string(), 2), ("b".to_string(), 1)]));
            let note: Option<String> = sandbox.call("start_note", ()).unwrap();
            assert_eq!(note.unwrap(), "by the start-up function");
            let numbers: Vec<u32> = sandbox
                .function::<(u32, u32), u32>("add")
                .unwrap()
                .call_many(sandbox, (0..500).map(|number| (number, 1)).collect::<Vec<_>>())
                .into_iter()
                .map(Result::unwrap)
                .collect();
            assert_eq!(numbers, (1..501).collect::<Vec<_>>());
        });
    }

    fn a_call_without_a_system_call_is_one_entry() {
        with_each(|sandbox| {
            sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap();
            let before = sandbox.stats().entries;
            (0..10).for_each(|_| { sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(); });
            assert_eq!(sandbox.stats().entries - before, 10);
        });
    }

    fn what_is_printed_and_logged_arrives_in_lines() {
        build_each(|builder, name| {
            let (builder, records) = Records::of(builder);
            let mut sandbox = builder.build(guest(name)).unwrap();
            sandbox.call::<_, ()>("print_lines", ("one\ntwo", "three")).unwrap();
            assert_eq!(records.take(), ["stdout: one", "stdout: two", "stderr: three"]);
            sandbox.call::<_, ()>("print_to_the_log", ("four",)).unwrap();
            sandbox.call::<_, ()>("log_text", ("five",)).unwrap();
            assert_eq!(records.take(), ["print: four", "testing_std::calls: five"]);
            sandbox.call::<_, ()>("log_from_a_thread", ("six",)).unwrap();
            let texts = records.take();
            assert_eq!(texts.len(), 2, "{texts:?}");
            assert!(texts.iter().all(|text| text.starts_with("stderr: ") && text.ends_with("six")));
        });
    }

    fn panics_carry_message_and_place_and_only_uncaught_ones_end_the_call() {
        with_each(|sandbox| {
            assert_eq!(sandbox.call::<_, String>("catch_panic", ("caught",)).unwrap(), "caught");
            assert!(sandbox.call::<_, bool>("join_panicking_thread", ("x".to_string(),)).unwrap());
            assert_eq!(sandbox.call::<_, u32>("drop_while_unwinding", ()).unwrap(), 1);
            let check = |sandbox: &mut Sandbox, function: &str, message: &str| {
                let failed = match function {
                    "panic_with" => error(sandbox.call::<_, ()>(function, ("x",))),
                    "pass_on_a_threads_panic" => {
                        error(sandbox.call::<_, ()>(function, ("x".to_string(),)))
                    }
                    "index_out_of_bounds" => error(sandbox.call::<_, u8>(function, (3usize,))),
                    "catch_around_host_call" => error(sandbox.call::<_, bool>(function, ())),
                    _ => error(sandbox.call::<_, ()>(function, ())),
                };
                assert_eq!(failed.kind(), ErrorKind::Panic, "{function}: {failed}");
                let panic = failed.panic().unwrap();
                assert!(panic.message.contains(message), "{function}: {panic:?}");
                assert!(panic.location.contains("ends.rs:"), "{function}: {panic:?}");
                assert!(sandbox.is_spent());
                sandbox.reset().unwrap();
            };
            check(sandbox, "panic_with", "told to: x");
            check(sandbox, "index_out_of_bounds", "the len is 3 but the index is 3");
            check(sandbox, "panic_after_a_caught_one", "again");
            check(sandbox, "pass_on_a_threads_panic", "x");
            check(sandbox, "catch_around_host_call", "in a call within a call");
            check(sandbox, "panic_without_text", "");
            assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
        });
    }

    fn every_other_end_is_told_apart_and_reset_recovers() {
        build_each(|builder, name| {
            let mut sandbox = builder.deadline(Duration::from_secs(2)).build(guest(name)).unwrap();
            let ended = error(sandbox.call::<_, ()>("exit", (7i32,)));
            assert_eq!(ended.kind(), ErrorKind::Exited);
            assert_eq!(ended.exit_status().unwrap().code(), Some(7));
            sandbox.reset().unwrap();
            let ended = error(sandbox.call::<_, ()>("abort", ()));
            assert_eq!(ended.exit_status().unwrap().signal(), Some(6), "{ended}");
            sandbox.reset().unwrap();
            let fault = error(sandbox.call::<_, u8>("null_pointer", ()));
            assert_eq!(fault.kind(), ErrorKind::Fault, "{fault}");
            assert_eq!(fault.fault().unwrap().address, Some(0));
            sandbox.reset().unwrap();
            let overflow = error(sandbox.call::<_, u64>("recurse", (0u64,)));
            assert!(
                [ErrorKind::StackOverflow, ErrorKind::Exited].contains(&overflow.kind()),
                "{overflow}"
            );
            sandbox.reset().unwrap();
            let late = error(sandbox.call::<_, Duration>("sleep", (0u64,)).and_then(|_| {
                // A deadline in the middle of work.
                sandbox.call_with::<_, u32>(
                    &glowbox::CallOptions::default().deadline(Duration::from_millis(50)),
                    "count_under_a_lock",
                    (2u32, u32::MAX),
                )
            }));
            assert_eq!(late.kind(), ErrorKind::Deadline);
            sandbox.reset().unwrap();
            assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
        });
    }

    fn memory_is_limited_and_what_does_not_fit_is_refused() {
        with_each(|sandbox| {
            let pages: usize = sandbox.call("allocate", (40usize << 20,)).unwrap();
            assert_eq!(pages, 10 << 10);
            assert!(!sandbox.call::<_, bool>("try_to_allocate", (200usize << 20,)).unwrap());
            // Again and again: what is freed can be had again.
            for _ in 0..20 {
                assert_eq!(sandbox.call::<_, usize>("allocate", (30usize << 20,)).unwrap(), 7680);
            }
            let ended = error(sandbox.call::<_, usize>("allocate", (100usize << 20,)));
            assert!(
                [ErrorKind::Exited, ErrorKind::OutOfMemory].contains(&ended.kind()),
                "{ended}"
            );
            sandbox.reset().unwrap();
            assert_eq!(sandbox.call::<_, usize>("allocate", (1usize << 20,)).unwrap(), 256);
        });
    }

    fn threads_take_turns_and_wait_for_each_other() {
        with_each(|sandbox| {
            let end = 200_000u64;
            let sum: Option<u64> = sandbox.call("sum_on_four_threads", (end,)).unwrap();
            assert_eq!(sum, Some(end * (end - 1) / 2));
            assert_eq!(sandbox.call::<_, u32>("ping_pong", (200u32,)).unwrap(), 400);
            let counted: u32 = sandbox.call("count_under_a_lock", (8u32, 1000u32)).unwrap();
            assert_eq!(counted, 8000);
            assert_eq!(sandbox.call::<_, usize>("meet", (10usize,)).unwrap(), 1);
            // One that goes on after the call, and is asked in a later one.
            sandbox.call::<_, ()>("start_worker", ()).unwrap();
            for number in 0..10u32 {
                let doubled: Option<u32> = sandbox.call("ask_worker", (number,)).unwrap();
                assert_eq!(doubled, Some(number * 2));
            }
            // It is part of a snapshot.
            let snapshot = sandbox.snapshot().unwrap();
            let mut copy = snapshot.spawn().unwrap();
            for asked in [&mut copy, sandbox] {
                assert_eq!(asked.call::<_, Option<u32>>("ask_worker", (21u32,)).unwrap(), Some(42));
            }
            let (refused, panicked): (String, String) =
                sandbox.call("host_calls_from_a_thread", ()).unwrap();
            assert!(refused.contains("serve") && panicked.contains("serve"), "{refused} {panicked}");
        });
    }

    fn a_vm_that_ran_other_page_tables_uses_those_of_the_guest_it_runs_now() {
        // Where page tables are shadowed, a table of the last guest's, or of before a reset, must not
        // stand for one of this one's. The second order has for its first region the table that the
        // first order had for the other.
        let engine = Engine::builder().pool_size(1).build().unwrap();
        let [first, second] = [vec![0u64], vec![1u64, 0]];
        let fill = |sandbox: &mut Sandbox, order: &Vec<u64>| {
            assert!(sandbox.call::<_, bool>("fill_regions", (order,)).unwrap(), "{order:?}");
        };
        for rounds in 0..2 {
            build_each(|builder, name| {
                let mut sandbox = builder.engine(&engine).build(guest(name)).unwrap();
                if rounds == 1 {
                    fill(&mut sandbox, &second);
                }
                let snapshot = sandbox.snapshot().unwrap();
                for order in [&first, &second] {
                    fill(&mut sandbox, order);
                    sandbox.reset().unwrap();
                }
                drop(sandbox);
                for order in [&first, &second] {
                    fill(&mut snapshot.spawn().unwrap(), order);
                }
            });
            build_each(|builder, name| {
                let mut sandbox = builder.engine(&engine).build(guest(name)).unwrap();
                fill(&mut sandbox, &first);
            });
        }
    }

    fn a_host_function_is_not_disturbed_by_threads_that_want_their_turn() {
        for name in standard_guests() {
            let mut sandbox = Sandbox::builder()
                .host_function("weekday", || {
                    // SAFETY: waits, without descriptors to wait for.
                    let result = unsafe { libc::poll(std::ptr::null_mut(), 0, 100) };
                    result.to_string()
                })
                .host_function("double", |number: u32| -> Result<u32, glowbox::HostError> {
                    Ok(number)
                })
                .host_function("back", || ())
                .clock(Clock::Real)
                .build(guest(name))
                .unwrap();
            for _ in 0..3 {
                assert_eq!(sandbox.call::<_, String>("ask_while_one_spins", ()).unwrap(), "0");
            }
        }
    }

    fn statics_and_thread_locals_live_from_call_to_call_until_a_reset() {
        with_each(|sandbox| {
            assert_eq!(sandbox.call::<_, u32>("count_up", ()).unwrap(), 1);
            let snapshot = sandbox.snapshot().unwrap();
            assert_eq!(sandbox.call::<_, u32>("count_up", ()).unwrap(), 2);
            assert_eq!(sandbox.call::<_, Option<u32>>("count_up_elsewhere", ()).unwrap(), Some(1));
            let lazy: String = sandbox.call("lazy_thread_local", ()).unwrap();
            assert_eq!(lazy, "made when it is first used");
            let remember = |sandbox: &mut Sandbox, value: &str| {
                let pair = ("key".to_string(), value.to_string());
                sandbox.call::<_, Option<String>>("remember", pair).unwrap()
            };
            assert_eq!(remember(sandbox, "one"), None);
            assert_eq!(remember(sandbox, "two"), Some("one".to_string()));
            let mut other = snapshot.spawn().unwrap();
            assert_eq!(other.call::<_, Option<String>>("recall", ("key",)).unwrap(), None);
            assert_eq!(other.call::<_, u32>("count_up", ()).unwrap(), 2);
            sandbox.reset().unwrap();
            assert_eq!(sandbox.call::<_, Option<String>>("recall", ("key",)).unwrap(), None);
            assert_eq!(sandbox.call::<_, u32>("count_up", ()).unwrap(), 2);
        });
    }

    fn a_snapshot_is_saved_and_loaded_with_its_threads_and_files() {
        let folder = tempfile::tempdir().unwrap();
        build_each(|builder, name| {
            let mut sandbox = builder.scratch("/tmp", 1 << 20).build(guest(name)).unwrap();
            sandbox.call::<_, ()>("start_worker", ()).unwrap();
            let data = vec![7u8; 5000];
            sandbox.call::<_, ()>("write_file", ("/tmp/a", &data[..])).unwrap();
            let path = folder.path().join("snapshot");
            sandbox.snapshot().unwrap().save(&path).unwrap();
            drop(sandbox);
            let loaded = Snapshot::loader()
                .host_function("weekday", || "Tuesday".to_string())
                .host_function("double", |_: u32| -> Result<u32, glowbox::HostError> { Ok(1) })
                .host_function("back", || ())
                .scratch_limit(1 << 20)
                .load(&path)
                .unwrap();
            for _ in 0..3 {
                let mut sandbox = loaded.spawn().unwrap();
                assert_eq!(sandbox.call::<_, Option<u32>>("ask_worker", (4u32,)).unwrap(), Some(8));
                assert_eq!(sandbox.call::<_, Vec<u8>>("read_file", ("/tmp/a",)).unwrap(), data);
                sandbox.call::<_, ()>("write_file", ("/tmp/a", &b"other"[..])).unwrap();
                sandbox.call::<_, usize>("allocate", (3usize << 20,)).unwrap();
                sandbox.reset().unwrap();
                assert_eq!(sandbox.call::<_, Vec<u8>>("read_file", ("/tmp/a",)).unwrap(), data);
                assert!(sandbox.call::<_, String>("greet", ("you",)).unwrap().contains("Tuesday"));
            }
        });
    }

    fn directories_are_granted_anew_to_a_snapshot_from_a_file_where_it_had_some() {
        let folder = tempfile::tempdir().unwrap();
        let (data, other) = (folder.path().join("data"), folder.path().join("other"));
        for (place, text) in [(&data, "once"), (&other, "now")] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("a"), text).unwrap();
        }
        let path = folder.path().join("snapshot");
        build_each(|builder, name| {
            let mut sandbox = builder.directory("/data", &data).build(guest(name)).unwrap();
            sandbox.snapshot().unwrap().save(&path).unwrap();
            let loader = || {
                Snapshot::loader()
                    .host_function("weekday", || "Tuesday".to_string())
                    .host_function("double", |_: u32| -> Result<u32, glowbox::HostError> { Ok(1) })
                    .host_function("back", || ())
            };
            let read = |loader: Loader| {
                let mut sandbox = loader.load(&path).unwrap().spawn().unwrap();
                sandbox.call::<_, Vec<u8>>("read_file", ("/data/a",))
            };
            assert_eq!(read(loader().directory("/data", &other)).unwrap(), b"now");
            assert!(error(read(loader())).to_string().contains("os error 5"));
            let refused = error(loader().directory("/elsewhere", &other).load(&path));
            assert_eq!(refused.kind(), ErrorKind::InvalidOption);
            assert!(refused.to_string().contains("`/elsewhere`") , "{refused}");
            assert!(refused.to_string().contains("`/data`"), "{refused}");
        });
    }

    fn nothing_of_the_host_is_seen_unless_it_is_granted() {
        with_each(|sandbox| {
            let none: Vec<String> = sandbox.call("arguments", ()).unwrap();
            assert_eq!(none.len(), 1, "{none:?}");
            assert!(sandbox.call::<_, Vec<(String, String)>>("variables", ()).unwrap().is_empty());
            for path in ["/etc/passwd", "/proc/self/maps", "/proc/cpuinfo", "/", "etc", "/dev/mem"] {
                let refused = error(sandbox.call::<_, Vec<u8>>("read_file", (path,)));
                assert_eq!(refused.kind(), ErrorKind::Guest, "{path}: {refused}");
            }
            let refused = error(sandbox.call::<_, ()>("write_file", ("/x", &b"y"[..])));
            assert!(refused.to_string().contains("Read-only"), "{refused}");
            assert_eq!(sandbox.call::<_, String>("read_line", ()).unwrap(), "");
            assert_eq!(sandbox.call::<_, String>("current_dir", ()).unwrap(), "/");
            // 2000-01-01, and not much later.
            let now: u64 = sandbox.call("now", ()).unwrap();
            assert!((946_684_800..946_684_802).contains(&now), "{now}");
        });
    }

    fn what_is_granted_is_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "from the host").unwrap();
        build_each(|builder, name| {
            let (output, buffer) = Output::buffer(1000);
            let mut sandbox = builder
                .args(["one", "two"])
                .env("NAME", "value")
                .env("NAME", "other value")
                .stdin(Input::bytes("a line\nanother"))
                .stdout(output)
                .file("/given/b.txt", "in memory")
                .directory("/host", folder.path())
                .scratch("/tmp", 100 << 10)
                .current_directory("/given")
                .clock(Clock::Real)
                .build(guest(name))
                .unwrap();
            let arguments: Vec<String> = sandbox.call("arguments", ()).unwrap();
            assert_eq!(arguments[1..], ["one", "two"]);
            let value: Option<String> = sandbox.call("variable", ("NAME",)).unwrap();
            assert_eq!(value.unwrap(), "other value");
            assert_eq!(sandbox.call::<_, String>("read_line", ()).unwrap(), "a line\n");
            assert_eq!(sandbox.call::<_, String>("current_dir", ()).unwrap(), "/given");
            let read = |sandbox: &mut Sandbox, path: &str| {
                sandbox.call::<_, Vec<u8>>("read_file", (path,)).map(|bytes| {
                    String::from_utf8_lossy(&bytes).into_owned()
                })
            };
            assert_eq!(read(&mut sandbox, "b.txt").unwrap(), "in memory");
            assert_eq!(read(&mut sandbox, "/host/a.txt").unwrap(), "from the host");
            assert!(read(&mut sandbox, "/host/../etc/passwd").is_err());
            let write = |sandbox: &mut Sandbox, path: &str, data: &[u8]| {
                sandbox.call::<_, ()>("write_file", (path, data))
            };
            write(&mut sandbox, "/tmp/c", b"scratch").unwrap();
            assert_eq!(read(&mut sandbox, "/tmp/c").unwrap(), "scratch");
            assert!(write(&mut sandbox, "/host/a.txt", b"x").is_err());
            assert!(write(&mut sandbox, "/given/b.txt", b"x").is_err());
            let full = error(write(&mut sandbox, "/tmp/d", &[1; 200 << 10]));
            assert!(full.to_string().contains("No space left"), "{full}");
            sandbox.call::<_, ()>("print_lines", ("printed", "")).unwrap();
            assert_eq!(buffer.take(), b"printed\n");
            let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let now: u64 = sandbox.call("now", ()).unwrap();
            assert!(now >= since && now < since + 100, "{now}");
            sandbox.map("lent", &Mapping::copy_of(&[1; 777]).unwrap()).unwrap();
            assert_eq!(sandbox.call::<_, Option<usize>>("mapped_length", ("lent",)).unwrap(), Some(777));
            assert_eq!(std::fs::read_to_string(folder.path().join("a.txt")).unwrap(), "from the host");
        });
    }

    fn what_was_read_of_given_input_is_there_again_after_a_reset_and_in_copies() {
        build_each(|builder, name| {
            let input = Input::bytes("first\nsecond\n");
            let mut sandbox = builder.stdin(input).build(guest(name)).unwrap();
            let line = |sandbox: &mut Sandbox| sandbox.call::<_, String>("read_line", ()).unwrap();
            let before = sandbox.snapshot().unwrap();
            assert_eq!(line(&mut sandbox), "first\n");
            let after = sandbox.snapshot().unwrap();
            assert_eq!(line(&mut sandbox), "second\n");
            sandbox.reset().unwrap();
            assert_eq!(line(&mut sandbox), "second\n");
            for _ in 0..2 {
                let mut copy = before.spawn().unwrap();
                assert_eq!(line(&mut copy), "first\n");
                copy.reset().unwrap();
                assert_eq!(line(&mut copy), "first\n");
                assert_eq!(line(&mut after.spawn().unwrap()), "second\n");
            }
            let mut other = before.spawner().stdin(Input::bytes("other\n")).spawn().unwrap();
            assert_eq!(line(&mut other), "other\n");
            other.reset().unwrap();
            assert_eq!(line(&mut other), "other\n");
        });
    }

    fn a_panic_where_output_goes_ends_the_call_and_not_the_host() {
        build_each(|builder, name| {
            let output = Output::callback(|_| panic!("no room"));
            let mut sandbox = builder.stdout(output).build(guest(name)).unwrap();
            let ended = error(sandbox.call::<_, ()>("print_lines", ("printed", "")));
            assert_eq!(ended.kind(), ErrorKind::HostPanic);
            assert!(ended.to_string().contains("no room"), "{ended}");
        });
    }

    fn a_virtual_clock_goes_forward_and_sleeping_takes_no_time() {
        with_each(|sandbox| {
            assert!(sandbox.call::<_, bool>("is_monotonic", (100u32,)).unwrap());
            let start = std::time::Instant::now();
            let slept: Duration = sandbox.call("sleep", (3_600_000u64,)).unwrap();
            assert!(slept >= Duration::from_secs(3600) && slept < Duration::from_secs(3601));
            assert!(start.elapsed() < Duration::from_secs(9), "it slept for real");
        });
    }

    fn random_numbers_differ_between_copies_unless_they_are_to_be_the_same() {
        build_each(|builder, name| {
            let mut sandbox = builder.build(guest(name)).unwrap();
            sandbox.call::<_, (u64, u64)>("random_numbers", ()).unwrap();
            let snapshot = sandbox.snapshot().unwrap();
            let mut seen = std::collections::HashSet::new();
            for _ in 0..4 {
                let mut copy = snapshot.spawn().unwrap();
                let (one, two): (u64, u64) = copy.call("random_numbers", ()).unwrap();
                assert!(seen.insert(one) && seen.insert(two));
                copy.reset().unwrap();
                let (one, two): (u64, u64) = copy.call("random_numbers", ()).unwrap();
                assert!(seen.insert(one) && seen.insert(two));
            }
        });
        build_each(|builder, name| {
            let mut sandbox = builder.deterministic(5).build(guest(name)).unwrap();
            let first: (u64, u64) = sandbox.call("random_numbers", ()).unwrap();
            sandbox.reset().unwrap();
            assert_eq!(sandbox.call::<_, (u64, u64)>("random_numbers", ()).unwrap(), first);
        });
    }

    fn a_guest_that_can_not_be_what_is_asked_of_it_is_refused_with_what_to_do() {
        let plain = error(Sandbox::builder().load(guest("hello")).map(drop));
        assert_eq!(plain.kind(), ErrorKind::InvalidGuest);
        assert!(plain.to_string().contains("Builder::build"), "{plain}");
        build_each(|builder, name| {
            let ran = error(builder.load(guest(name)).unwrap().run());
            assert_eq!(ran.kind(), ErrorKind::InvalidGuest);
            assert!(ran.to_string().contains("Builder::build"), "{ran}");
        });
    }
}
