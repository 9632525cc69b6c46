//! A guest that holds a script engine: warmed once, it gives each script a sandbox of its own.

use glowbox::{Builder, Engine, ErrorKind, Sandbox, Snapshot};

use crate::support::{error, guest};

/// A sandbox whose engine has been made and used.
fn warm(builder: Builder) -> Sandbox {
    let mut sandbox = builder.build(guest("interpreter-std")).unwrap();
    let said: Result<String, String> = sandbox.call("warm", ()).unwrap();
    assert_eq!(said.unwrap(), r#"[55, 25, 2, 3.0, "43 letters"]"#);
    sandbox
}

/// What a script comes to.
fn evaluate(sandbox: &mut Sandbox, script: &str) -> Result<String, String> {
    sandbox.call("evaluate", (script,)).unwrap()
}

/// What a sandbox holds, as a snapshot's file.
fn contents(sandbox: &mut Sandbox) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    sandbox.snapshot().unwrap().save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn contains(contents: &[u8], text: &str) -> bool {
    contents.windows(text.len()).any(|window| window == text.as_bytes())
}

tests! {
    fn scripts_are_evaluated_in_sandboxes_of_a_warm_snapshot() {
        let mut sandbox = warm(Sandbox::builder());
        let define = "fn twice(n) { 2 * n } let base = 40;";
        let defined: Result<(), String> = sandbox.call("define", (define,)).unwrap();
        defined.unwrap();
        sandbox.call::<_, ()>("set", ("limit".to_string(), 1000i64)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("interpreter.snapshot");
        let snapshot = sandbox.snapshot().unwrap();
        snapshot.save(&path).unwrap();
        let loaded = Snapshot::load(&path).unwrap();
        for snapshot in [snapshot, loaded] {
            let mut sandbox = snapshot.spawn().unwrap();
            let mut value = |script| evaluate(&mut sandbox, script);
            assert_eq!(value("base + twice(1)").unwrap(), "42");
            assert_eq!(value("primes(limit)").unwrap(), "168");
            assert_eq!(value("fibonacci(15)").unwrap(), "610");
            assert!(value("1 +").unwrap_err().contains("line 1"));
            assert!(value("fn f(n) { f(n + 1) } f(0)").unwrap_err().contains("overflow"));
            assert!(value("throw \"mine\"").unwrap_err().contains("mine"));
            assert_eq!(value("twice(base)").unwrap(), "80");
        }
    }

    fn nothing_of_a_script_is_in_the_sandbox_of_the_next() {
        // With one VM, which the sandboxes have one after the other.
        let engine = Engine::builder().pool_size(1).build().unwrap();
        let snapshot = warm(Sandbox::builder().engine(&engine).deterministic(1)).snapshot().unwrap();
        let secret = ["an open", "door"].join(" ");
        let clean = contents(&mut snapshot.spawn().unwrap());
        assert!(!contains(&clean, &secret));
        for _ in 0..3 {
            let mut used = snapshot.spawn().unwrap();
            let keep = format!("fn mine() {{ \"{secret}\" }}");
            let kept: Result<(), String> = used.call("define", (keep,)).unwrap();
            kept.unwrap();
            used.call::<_, ()>("set", ("left".to_string(), 7i64)).unwrap();
            assert_eq!(evaluate(&mut used, "mine() + left").unwrap(), format!("{secret}7"));
            assert!(contains(&contents(&mut used), &secret));
            drop(used);
            let mut next = snapshot.spawn().unwrap();
            assert!(evaluate(&mut next, "mine()").unwrap_err().contains("mine"));
            assert!(evaluate(&mut next, "left").unwrap_err().contains("left"));
            drop(next);
            assert!(contents(&mut snapshot.spawn().unwrap()) == clean, "something has stayed");
        }
    }

    fn a_script_that_never_ends_is_stopped_and_costs_nobody_else() {
        let snapshot = warm(Sandbox::builder()).snapshot().unwrap();
        let deadline = std::time::Duration::from_millis(50);
        let mut spinning = snapshot.spawner().deadline(deadline).spawn().unwrap();
        let stopped = error(spinning.call::<_, Result<String, String>>("evaluate", ("loop {}",)));
        assert_eq!(stopped.kind(), ErrorKind::Deadline);
        assert_eq!(evaluate(&mut snapshot.spawn().unwrap(), "1 + 1").unwrap(), "2");
        spinning.reset().unwrap();
        assert_eq!(evaluate(&mut spinning, "1 + 1").unwrap(), "2");
    }
}
