#![allow(missing_docs)]
use glowbox::*;
use std::time::Instant;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let mut s = Sandbox::builder().log_sink(|r| eprintln!("[{}] {r}", r.target)).build(path).unwrap();
    let t = Instant::now();
    println!("{:?}", s.call::<_, String>("greet", ("World",)));
    println!("first {:?} {:?}", t.elapsed(), s.stats());
    for _ in 0..3 { let t = Instant::now(); let r = s.call::<_, String>("greet", ("World",)); println!("{r:?} {:?}", t.elapsed()); }
    let snap = s.snapshot().unwrap();
    for _ in 0..20 {
        let t = Instant::now();
        let mut f = snap.spawn().unwrap();
        let t1 = t.elapsed();
        let r = f.call::<_, String>("greet", ("Spawned",));
        let t2 = t.elapsed();
        let st = f.stats();
        drop(f);
        println!("{r:?} spawn {t1:?} call {t2:?} total {:?} entries {}", t.elapsed(), st.entries);
    }
    for _ in 0..5 { let t = Instant::now(); s.reset().unwrap(); println!("reset {:?} {:?}", t.elapsed(), s.call::<_, String>("greet", ("x",))); }
    snap.save("/tmp/lt/x.snapshot").unwrap();
    let l = Snapshot::load("/tmp/lt/x.snapshot").unwrap();
    println!("{:?}", l.spawn().unwrap().call::<_, String>("greet", ("loaded",)));
}
