//! Calls that nest: each step asks the host, which calls the next step.

use glowbox_guest::{guest_function, host_function};

macro_rules! steps {
    ($($name:ident = $number:literal),*) => {
        $(
            #[host_function]
            fn $name() -> u32;
        )*

        /// Calls the host function of this number.
        #[guest_function]
        fn step(number: u32) -> u32 {
            match number {
                $($number => $name(),)*
                _ => 0,
            }
        }
    };
}

steps! {
    step_0 = 0, step_1 = 1, step_2 = 2, step_3 = 3, step_4 = 4, step_5 = 5, step_6 = 6, step_7 = 7,
    step_8 = 8, step_9 = 9, step_10 = 10, step_11 = 11, step_12 = 12, step_13 = 13, step_14 = 14,
    step_15 = 15, step_16 = 16, step_17 = 17
}
