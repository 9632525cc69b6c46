//! Who a guest is: one process of an ordinary user, alone in the world.

use crate::Errno;
use crate::call::{Answer, Call, int, unsigned};
use crate::threads::PID;
use crate::threads::signals::USER;

/// What "leave it as it is" is called where users are set.
const UNCHANGED: u32 = u32::MAX;
const CAPABILITY_VERSION: u32 = 0x2008_0522;

pub(super) fn getpid(_: &mut Call<'_>) -> Answer {
    Ok(PID.into())
}

pub(super) fn getppid(_: &mut Call<'_>) -> Answer {
    Ok(1)
}

/// Also for sessions: the process leads its own.
pub(super) fn getpgid(call: &mut Call<'_>) -> Answer {
    match unsigned(call.arguments[0]) {
        0 | PID => Ok(PID.into()),
        _ => Err(Errno::ESRCH.into()),
    }
}

pub(super) fn setsid(_: &mut Call<'_>) -> Answer {
    Err(Errno::EPERM.into())
}

pub(super) fn getuid(_: &mut Call<'_>) -> Answer {
    Ok(USER.into())
}

pub(super) fn getresuid(call: &mut Call<'_>) -> Answer {
    let [real, effective, saved, ..] = call.arguments;
    for to in [real, effective, saved] {
        call.write(to, &USER.to_le_bytes())?;
    }
    Ok(0)
}

/// Allows users that are the guest's.
fn check(users: &[u64]) -> Answer {
    let own = users.iter().all(|user| matches!(unsigned(*user), USER | UNCHANGED));
    if own { Ok(0) } else { Err(Errno::EPERM.into()) }
}

pub(super) fn setuid(call: &mut Call<'_>) -> Answer {
    match unsigned(call.arguments[0]) {
        UNCHANGED => Err(Errno::EINVAL.into()),
        _ => check(&call.arguments[..1]),
    }
}

pub(super) fn setreuid(call: &mut Call<'_>) -> Answer {
    check(&call.arguments[..2])
}

pub(super) fn setresuid(call: &mut Call<'_>) -> Answer {
    check(&call.arguments[..3])
}

pub(super) fn setfsuid(_: &mut Call<'_>) -> Answer {
    Ok(USER.into())
}

pub(super) fn getgroups(call: &mut Call<'_>) -> Answer {
    if int(call.arguments[0]) < 0 { Err(Errno::EINVAL.into()) } else { Ok(0) }
}

pub(super) fn denied(_: &mut Call<'_>) -> Answer {
    Err(Errno::EPERM.into())
}

pub(super) fn capget(call: &mut Call<'_>) -> Answer {
    let [header, data, ..] = call.arguments;
    let version = call.word32(header)?;
    let process = int(u64::from(call.word32(header.wrapping_add(4))?));
    if version != CAPABILITY_VERSION {
        call.write(header, &CAPABILITY_VERSION.to_le_bytes())?;
        return if data == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    if process != 0 && process != PID.cast_signed() {
        return Err(Errno::ESRCH.into());
    }
    if data != 0 {
        call.write(data, &[0; 24])?;
    }
    Ok(0)
}

pub(super) fn no_child(_: &mut Call<'_>) -> Answer {
    Err(Errno::ECHILD.into())
}

pub(super) fn no_program(_: &mut Call<'_>) -> Answer {
    Err(Errno::EACCES.into())
}

pub(super) fn absent(_: &mut Call<'_>) -> Answer {
    Err(Errno::ENOSYS.into())
}
