//! No bytes break the offline verifier, and none pass for records without the keys (G3).
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use llmrtc_security::audit::{
    AuditKeys,
    verify::{Trust, Verifier},
};

static KEYS: LazyLock<Arc<AuditKeys>> = LazyLock::new(|| Arc::new(AuditKeys::generate()));

fuzz_target!(|data: &[u8]| {
    let public = KEYS.public_keys().map(|(_, key)| key).collect();
    for trust in [Trust::Keys(Arc::clone(&KEYS)), Trust::PublicKeys(public)] {
        let mut verifier = Verifier::new(trust);
        assert_eq!(verifier.published_head(data), None);
        let (first, second) = data.split_at(data.len() / 2);
        verifier.file("1", first).expect("memory can be read");
        verifier.file("2", second).expect("memory can be read");
        let report = verifier.finish();
        assert!(report.records == 0 || !report.is_intact());
    }
});
