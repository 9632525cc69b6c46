#![allow(missing_docs)]
use glowbox::*;
fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap();
    let mut b = Sandbox::builder().memory_limit(512<<20).deadline(std::time::Duration::from_secs(60)).args(args).stdout(Output::stdout()).stderr(Output::stderr()).stdin(Input::stdin());
    b = b.env("PATH","/bin").scratch("/tmp", 64<<20).directory("/data", "/tmp/lt").clock(if std::env::var("REAL").is_ok() {Clock::Real} else {Clock::Virtual});
    let t = std::time::Instant::now();
    let mut p = b.load(path).unwrap();
    let t1 = t.elapsed();
    match p.run() {
        Ok(s) => eprintln!("=> {s} load {t1:?} total {:?} {:?}", t.elapsed(), p.stats()),
        Err(e) => { eprintln!("=> {e:?}"); std::process::exit(99) }
    }
}
