//! The shapes of credentials that their issuers gave a prefix.

/// Characters of a credential behind its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Letters and digits.
    Alnum,
    /// Letters, digits, `_` and `-`.
    Word,
    /// As `Word`, and dots.
    Dotted,
    /// Hexadecimal digits.
    Hex,
    /// Capitals and digits.
    Upper,
    /// Base64 in either alphabet, with padding.
    Base64,
}

impl Tail {
    pub(super) fn has(self, byte: u8) -> bool {
        match self {
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Word => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Base64 => {
                byte.is_ascii_alphanumeric()
                    || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/' | b'=' | b'~')
            }
        }
    }
}

use Tail::{Alnum, Base64, Dotted, Hex, Upper, Word};

/// Prefix as issued, characters behind it, and how many there are at least. From the issuers' documentation.
#[rustfmt::skip]
pub(super) const SHAPES: &[(&str, Tail, usize)] = &[
    // Vendors of models and speech.
    ("sk-", Word, 20), ("sess-", Word, 24), ("sk_", Hex, 40), ("sk_car_", Word, 16), ("AIza", Word, 30), ("ya29.", Dotted, 20), ("GOCSPX-", Word, 20), ("gsk_", Alnum, 30), ("hf_", Alnum, 30), ("api_org_", Alnum, 30), ("xai-", Word, 40), ("pplx-", Alnum, 30),
    ("r8_", Alnum, 30), ("fw_", Alnum, 20), ("fpk_", Alnum, 20), ("tgp_v1_", Word, 30), ("csk-", Alnum, 30), ("nvapi-", Word, 40), ("jina_", Alnum, 30), ("tvly-", Word, 20), ("lsv2_pt_", Word, 30), ("lsv2_sk_", Word, 30), ("pcsk_", Word, 30), ("co_", Alnum, 36), ("dg_", Alnum, 32), ("aai_", Alnum, 30), ("vapi_", Word, 20), ("lk_", Word, 24),
    // Clouds.
    ("AKIA", Upper, 16), ("ASIA", Upper, 16), ("ABIA", Upper, 16), ("ACCA", Upper, 16), ("A3T", Upper, 17), ("LTAI", Alnum, 16), ("AGE-SECRET-KEY-1", Upper, 40), ("dop_v1_", Hex, 40), ("doo_v1_", Hex, 40), ("dor_v1_", Hex, 40), ("HRKU-", Word, 30), ("fo1_", Word, 30), ("fm2_", Base64, 30), ("vercel_", Alnum, 20), ("nfp_", Alnum, 30), ("rnd_", Alnum, 28), ("sbp_", Hex, 32), ("hvs.", Word, 24), ("hvb.", Word, 24), ("sha256~", Word, 40),
    ("pscale_tkn_", Dotted, 30), ("pscale_pw_", Dotted, 30), ("dapi", Hex, 32), ("pul-", Hex, 40), ("dp.pt.", Alnum, 40), ("dt0c01.", Dotted, 60), ("AKCp", Alnum, 60), ("p8e-", Alnum, 30), ("ico-", Alnum, 32),
    // Code hosts and registries.
    ("ghp_", Alnum, 30), ("gho_", Alnum, 30), ("ghu_", Alnum, 30), ("ghs_", Alnum, 30), ("ghr_", Alnum, 30), ("github_pat_", Word, 40), ("glpat-", Dotted, 20), ("gldt-", Word, 20), ("glrt-", Word, 20), ("glcbt-", Word, 20), ("glptt-", Hex, 40), ("glsoat-", Word, 20), ("glft-", Word, 20), ("glimt-", Word, 20), ("glagent-", Word, 40), ("gloas-", Hex, 40), ("GR1348941", Word, 20),
    ("npm_", Alnum, 36), ("pypi-", Word, 50), ("rubygems_", Hex, 40), ("cio", Alnum, 32), ("CLOJARS_", Alnum, 50), ("dckr_pat_", Word, 20), ("ATATT3", Base64, 50), ("ATCTT3", Base64, 50), ("ATBB", Alnum, 28), ("sgp_", Word, 40),
    // Messages and mail.
    ("xoxb-", Word, 20), ("xoxp-", Word, 20), ("xoxa-", Word, 20), ("xoxr-", Word, 20), ("xoxs-", Word, 20), ("xoxe-", Word, 20), ("xoxe.", Dotted, 20), ("xoxc-", Word, 20), ("xoxd-", Base64, 20), ("xapp-", Word, 20), ("SG.", Dotted, 40), ("key-", Hex, 32), ("xkeysib-", Word, 60), ("xsmtpsib-", Word, 60), ("re_", Word, 24), ("AC", Hex, 32), ("SK", Hex, 32),
    // Money and commerce.
    ("sk_live_", Alnum, 16), ("sk_test_", Alnum, 16), ("rk_live_", Alnum, 16), ("rk_test_", Alnum, 16), ("whsec_", Base64, 24), ("sq0atp-", Word, 20), ("sq0csp-", Word, 40), ("EAAA", Word, 56), ("shpat_", Hex, 32), ("shpca_", Hex, 32), ("shppa_", Hex, 32), ("shpss_", Hex, 32), ("FLWSECK_TEST-", Word, 12), ("FLWSECK-", Word, 12), ("access-sandbox-", Word, 36), ("access-production-", Word, 36), ("EZAK", Alnum, 50), ("EZTK", Alnum, 50), ("duffel_live_", Word, 40), ("duffel_test_", Word, 40), ("shippo_live_", Hex, 40), ("shippo_test_", Hex, 40), ("live_", Hex, 35), ("test_", Hex, 35),
    // Operations.
    ("glsa_", Word, 32), ("glc_", Base64, 32), ("lin_api_", Alnum, 30), ("NRAK-", Alnum, 24), ("NRJS-", Hex, 19), ("NRIQ-", Word, 30), ("secret_", Alnum, 40), ("ntn_", Alnum, 40), ("PMAK-", Word, 50), ("pnu_", Alnum, 30), ("rdme_", Alnum, 60), ("sntrys_", Base64, 40), ("sntryu_", Hex, 40), ("ops_", Base64, 60), ("phx_", Alnum, 30), ("tfp_", Word, 50), ("fio-u-", Word, 50), ("EAACEdEose0cBA", Alnum, 10), ("PRIVATE-", Word, 40), ("dnkey-", Word, 40), ("ddp_", Alnum, 30), ("CFPAT-", Word, 40),
    // JSON in base64url: tokens of every make.
    ("eyJ", Dotted, 17),
];
