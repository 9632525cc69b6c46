//! Calls with arguments and results as bytes.

use glowbox::{CallOptions, ErrorKind};
use testing_types::MathError;

use crate::support::{builder, error, guest, sandbox};

tests! {
    fn encoded_arguments_give_the_encoding_of_the_value() {
        let mut sandbox = sandbox();
        let options = CallOptions::new();
        let sum = sandbox.call_encoded(&options, "add", &[2, 0xac, 0x02]).unwrap();
        assert_eq!(sum, [0xae, 0x02]);
        assert!(sandbox.call_encoded(&options, "nothing", &[]).unwrap().is_empty());
        let text = sandbox.call_encoded(&options, "echo_text", b"\x05hello").unwrap();
        assert_eq!(text, b"\x05hello");
    }

    fn of_a_result_comes_the_value_alone_or_an_error_of_the_guests() {
        let mut sandbox = sandbox();
        let options = CallOptions::new();
        assert_eq!(sandbox.call_encoded(&options, "divide", &[6, 3]).unwrap(), [2]);
        let failed = error(sandbox.call_encoded(&options, "divide", &[6, 0]));
        assert_eq!(failed.kind(), ErrorKind::Guest);
        assert_eq!(failed.guest_error::<MathError>(), Some(MathError::Zero));
        assert!(!sandbox.is_spent());
        assert_eq!(sandbox.call_encoded(&options, "aliased_result", &[0]).unwrap(), [7]);
    }

    fn bytes_that_are_no_arguments_are_refused_by_the_guest_which_goes_on() {
        let mut sandbox = sandbox();
        let options = CallOptions::new();
        for wrong in [&[][..], &[2], &[2, 3, 4], &[0xff; 16]] {
            let refused = error(sandbox.call_encoded(&options, "add", wrong));
            assert_eq!(refused.kind(), ErrorKind::BadArguments, "{refused}");
        }
        assert_eq!(sandbox.call_encoded(&options, "add", &[2, 3]).unwrap(), [5]);
    }

    fn what_ends_other_calls_ends_encoded_ones() {
        let mut sandbox = builder().message_size(4096).build(guest("testing")).unwrap();
        let options = CallOptions::new();
        let unknown = error(sandbox.call_encoded(&options, "subtract", &[]));
        assert_eq!(unknown.kind(), ErrorKind::UnknownFunction);
        let large = error(sandbox.call_encoded(&options, "echo", &[0; 5000]));
        assert_eq!(large.kind(), ErrorKind::MessageTooLarge);
        assert!(large.to_string().contains("take 5000 bytes"), "{large}");
        let result = error(sandbox.call_encoded(&options, "sized", &[0x88, 0x27]));
        assert_eq!(result.kind(), ErrorKind::MessageTooLarge, "{result}");
        let panicked = error(sandbox.call_encoded(&options, "end_by", &[7, 1]));
        assert_eq!(panicked.kind(), ErrorKind::Panic);
        let spent = error(sandbox.call_encoded(&options, "add", &[2, 3]));
        assert_eq!(spent.kind(), ErrorKind::Spent);
    }
}
