//! How a call ends: value, error, spent.

use crate::support::sandbox;

tests! {
    fn a_call_ends_with_its_value() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
        let data = vec![7u8; 1 << 20];
        assert_eq!(sandbox.call::<_, Vec<u8>>("echo", (&data[..],)).unwrap(), data);
    }
}
