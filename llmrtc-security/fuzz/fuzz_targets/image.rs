//! No file breaks the readers of pictures, and what is clean stays as it is (H5).
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmrtc_security::net::image::{self, MAX_PIXELS};

fuzz_target!(|data: &[u8]| {
    if let Ok(image) = image::sanitise(data) {
        assert!(u64::from(image.width) * u64::from(image.height) <= MAX_PIXELS);
        assert_eq!(
            image::sanitise(&image.data).expect("a clean picture"),
            image
        );
    }
});
