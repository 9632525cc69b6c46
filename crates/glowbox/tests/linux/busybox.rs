//! busybox: a shell without processes of its own, and the applets called directly.
//!
//! `$(…)`, pipes and a command that is no builtin make its shell fork, which a sandbox refuses.

use crate::support::{Case, Which};

const SCRIPT: &str = r#"
f() { echo "f $1 of $#"; return 3; }
i=0
while [ $i -lt 500 ]; do i=$((i + 1)); done
f $i x; echo "status $?"
case abc in b*) echo no;; a?c) echo yes;; esac
printf '%03d %s %x\n' 7 word 255
echo "${x:-none} ${GREETING#hello } ${#GREETING} ${GREETING%%t*}"
for w in a b "c d"; do printf '<%s>' "$w"; done; echo
set -- one two three; shift; echo "$# $1 $*"
echo $(( (1 << 40) % 1000007 )) $(( 7 / 2 * 3 - 0x10 ))
until [ $i -le 490 ]; do i=$((i - 3)); [ $i -eq 495 ] && continue; done; echo $i
trap 'echo bye' EXIT
exit 4
"#;

const FILES: &str = r#"
cd /data || exit 1
pwd
for f in *; do echo "$f"; done
[ -f a.txt ] && echo file; [ -d sub ] && echo folder; [ -L link ] && echo link
[ -e absent ] || echo absent
n=0; while read -r line; do n=$((n + 1)); echo "$n [$line]"; done < a.txt
echo one > /scratch/out; echo two >> /scratch/out
while read -r line; do echo "read $line"; done < /scratch/out
read -r word <<END
from a here-document
END
echo "$word"
"#;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name| Case::new(Which::Busybox, name).errors();
    let numbers: String = (0..5000).map(|n| format!("{} line\n", n * 7919 % 5003)).collect();
    vec![
        case("sh_computes").args(["sh", "-c", SCRIPT]),
        case("sh_reads_files").args(["sh", "-c", FILES]),
        case("sh_reads_a_script").args(["sh"]).input("echo from input; exit 9\n"),
        case("sh_finds_an_error").args(["sh", "-c", "if then"]),
        case("ls").args(["ls", "/data", "/data/sub"]),
        case("cat").args(["cat", "/data/a.txt", "/data/sub/inner.txt"]),
        case("cat_input").args(["cat"]).input(numbers.clone()),
        case("cat_absent").args(["cat", "/data/absent", "/data/a.txt"]),
        case("wc").args(["wc", "/data/a.txt", "/data/c.bin"]),
        case("sha256sum").args(["sha256sum", "/data/c.bin", "/data/a.txt"]),
        case("md5sum").args(["md5sum", "/data/c.bin"]),
        case("sort").args(["sort", "-n"]).input(numbers.clone()),
        case("sort_reversed").args(["sort", "-r", "/data/a.txt"]),
        case("uniq").args(["uniq", "-c"]).input("a\na\nb\na\n"),
        case("awk")
            .args(["awk", "{ n += $1; c[$1 % 7]++ } END { print n, NR, c[3], sqrt(2) }"])
            .input(numbers.clone()),
        case("grep").args(["grep", "-n", "^[0-9]*77 "]).input(numbers.clone()),
        case("grep_finds_nothing").args(["grep", "delta", "/data/a.txt"]),
        case("sed").args(["sed", "-e", "s/a\\(.\\)/<\\1>/g", "-e", "2d", "/data/a.txt"]),
        case("find").args(["find", "/data", "-type", "f", "-size", "-10"]).in_any_order(),
        case("head").args(["head", "-c", "7", "/data/a.txt"]),
        case("tail").args(["tail", "-n", "3"]).input(numbers),
        case("od").args(["od", "-A", "x", "-t", "x1z", "/data/c.bin"]),
        case("gzip").args(["gzip", "-n", "-c", "/data/c.bin"]),
        case("cp").args(["cp", "-r", "/data/sub", "/scratch/copy"]),
        case("mkdir").args(["mkdir", "-p", "/scratch/a/b/c"]),
        case("dd").args(["dd", "if=/data/c.bin", "bs=1000", "skip=2", "count=3", "status=none"]),
        case("tr").args(["tr", "a-z", "A-Z"]).input("some text\n"),
        case("seq").args(["seq", "1", "7", "100"]),
        case("expr").args(["expr", "3", "*", "14"]),
        case("date").args(["date", "-u", "-d", "@1000000000"]),
        case("env").args(["env"]),
        case("diff").args(["diff", "/data/a.txt", "/data/sub/inner.txt"]),
        case("stat").args(["stat", "-c", "%s %F", "/data/a.txt", "/data/sub"]),
        case("readlink").args(["readlink", "/data/link"]),
        case("true").args(["true"]),
        case("false").args(["false"]),
        case("no_such_applet").args(["no-such-applet"]),
    ]
}
