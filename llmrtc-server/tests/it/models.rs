//! `llmrtc models` as an operator meets it. The `pip` of these tests is a script: what is downloaded is not under test
//! here, and nothing is.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use llmrtc_providers::local::models::{PACKAGES, Plan, Size};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{harness::PATIENCE, process::llmrtc};

/// Two wheels of different kinds: one for any platform, one for this.
const PORTABLE: &str = "silero_vad-6.2.3-py3-none-any.whl";

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::create_dir(bench.bin()).unwrap();
        bench
    }

    fn bin(&self) -> std::path::PathBuf {
        self.0.path().join("bin")
    }

    fn store(&self) -> std::path::PathBuf {
        self.0.path().join("models")
    }

    /// A `python3` whose `pip download` runs this, with the target folder in `$d`. It finds no other programs.
    fn with_pip(then: &str) -> Self {
        let bench = Self::new();
        let path = bench.bin().join("python3");
        let script = format!(
            "#!/bin/sh\n[ \"$3\" = --version ] && exit 0\n\
             while [ $# -gt 0 ]; do [ \"$1\" = -d ] && d=$2; shift; done\n{then}\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    /// Runs `llmrtc models`; exit code, output, messages.
    async fn run(&self, line: &str) -> (i32, String, String) {
        let words: Vec<&str> = ["models"].into_iter().chain(line.split(' ')).collect();
        let mut command = llmrtc(self.0.path(), &words);
        command
            .env("PATH", self.bin())
            .env("LLMRTC_MODEL_DIR", self.store());
        let run = timeout(PATIENCE, command.output()).await;
        let run = run.expect("ends by itself").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            run.status.code().unwrap(),
            text(run.stdout),
            text(run.stderr),
        )
    }

    /// Runs a command that fails with all these words.
    async fn check_fails(&self, line: &str, words: &[&str]) {
        let (code, stdout, stderr) = self.run(line).await;
        assert_eq!(code, 1, "{line}: {stdout}{stderr}");
        for word in words {
            assert!(
                stderr.contains(word) || stdout.contains(word),
                "{line}: {word} is missing: {stdout}{stderr}"
            );
        }
    }

    fn check_nothing_is_installed(&self) {
        for package in PACKAGES {
            assert!(
                !self.store().join(package.name).exists(),
                "{}",
                package.name
            );
        }
    }
}

#[tokio::test]
async fn nothing_is_downloaded_without_consent_and_everything_is_told() {
    let bench = Bench::with_pip("echo called > \"$d/../called\"; exit 1");
    let (code, _, stderr) = bench.run("fetch").await;
    assert_eq!(code, 1, "{stderr}");
    let plan = Plan::of(&PACKAGES.iter().collect::<Vec<_>>());
    for package in &plan.packages {
        for part in [package.name, package.licence.name, package.wheel.version] {
            assert!(stderr.contains(part), "{part} is missing: {stderr}");
        }
    }
    let size = Size(plan.download_bytes()).to_string();
    assert!(
        stderr.contains(&size) && stderr.contains("--yes"),
        "{stderr}"
    );
    assert!(!bench.store().exists());
}

#[tokio::test]
async fn a_pip_that_fails_half_way_leaves_nothing_installed() {
    let bench = Bench::with_pip(&format!(
        "echo half > \"$d/{PORTABLE}\"; echo 'ERROR: connection lost' >&2; exit 2"
    ));
    let words = ["silero-vad==6.2.3", "exit status: 2", "connection lost"];
    bench.check_fails("fetch --yes silero", &words).await;
    bench.check_nothing_is_installed();
    let (code, stdout, _) = bench.run("list --json").await;
    assert_eq!(code, 0);
    let rows: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), PACKAGES.len());
    for row in rows {
        assert_ne!(row["status"], "installed", "{row}");
    }
}

#[tokio::test]
async fn a_machine_without_pip_is_told_what_to_do() {
    let bench = Bench::new();
    let words = ["no pip", "python3-pip", "--from DIR"];
    bench.check_fails("fetch --yes silero", &words).await;
    bench.check_nothing_is_installed();
}

#[tokio::test]
async fn a_wheel_that_is_none_is_not_installed() {
    let bench = Bench::with_pip(&format!("echo no wheel > \"$d/{PORTABLE}\""));
    bench.check_fails("fetch --yes silero", &["damaged"]).await;
    bench.check_nothing_is_installed();
    let wheels = bench.0.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    bench
        .check_fails(
            "fetch silero --from wheels",
            &["silero_vad-6.2.3-", "wheels"],
        )
        .await;
    fs::write(wheels.join(PORTABLE), "neither").unwrap();
    bench
        .check_fails("fetch silero --from wheels", &["damaged"])
        .await;
    bench.check_nothing_is_installed();
}

#[tokio::test]
async fn mistakes_are_named_with_the_next_step() {
    let bench = Bench::new();
    let missing = "llmrtc models fetch";
    for (line, words) in [
        ("fetch gpt-7 --yes", ["`gpt-7`", "moonshine-tiny-en"]),
        ("path gpt-7", ["`gpt-7`", "smollm2"]),
        ("path smollm2", ["not installed", missing]),
        ("verify", ["no models", missing]),
        ("verify smollm2", ["smollm2", missing]),
    ] {
        bench.check_fails(line, &words).await;
    }
    let dir = bench.store();
    let (code, stdout, _) = bench.run("path").await;
    assert_eq!((code, stdout.trim_end()), (0, dir.to_str().unwrap()));
    fs::create_dir_all(dir.join("silero")).unwrap();
    fs::write(dir.join("silero/silero_vad_op18_ifless.onnx"), "other").unwrap();
    let words = ["silero: silero_vad_op18_ifless.onnx", "expected", missing];
    bench.check_fails("verify", &words).await;
}

/// The real files, where the environment says where they are.
#[tokio::test]
async fn real_models_are_listed_and_verified() {
    let Some(dir) = std::env::var_os("LLMRTC_MODEL_DIR") else {
        println!("skipped: LLMRTC_MODEL_DIR is not set");
        return;
    };
    let bench = Bench::new();
    for line in ["list", "verify"] {
        let line = format!("{line} --dir {}", Path::new(&dir).display());
        let (code, stdout, stderr) = bench.run(&line).await;
        assert_eq!(code, 0, "{stdout}{stderr}");
    }
}

#[test]
fn the_documentation_says_what_the_manifest_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
    let text = fs::read_to_string(path).unwrap();
    let check = |part: &str| assert!(text.contains(part), "docs/models.md lacks {part}");
    for package in PACKAGES {
        check(&format!(
            "| `{}` | {} | {} | {} |",
            package.name,
            package.purpose,
            package.licence.name,
            Size(package.installed_bytes())
        ));
        let wheel = package.wheel;
        check(&wheel.requirement());
        check(&Size(wheel.download_bytes).to_string());
        if let Some(platform) = wheel.platform {
            check(&format!("--platform {platform}"));
        }
    }
    let plan = Plan::of(&PACKAGES.iter().collect::<Vec<_>>());
    if plan.unsupported.is_empty() {
        check(&Size(plan.download_bytes()).to_string());
        check(&Size(plan.installed_bytes()).to_string());
    }
}
