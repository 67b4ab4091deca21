//! The real `llmrtc` process.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::harness::PATIENCE;

/// The command in a folder of its own, with nothing of this process's environment.
pub(crate) fn llmrtc(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmrtc"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A running server.
pub(crate) struct Process {
    child: Child,
    log: watch::Receiver<Vec<String>>,
    _reader: JoinSet<()>,
    pub(crate) address: String,
}

impl Process {
    pub(crate) async fn start(
        directory: &Path,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let arguments = [&["serve", "--port", "0", "--log-format", "json"], flags].concat();
        let mut command = llmrtc(directory, &arguments);
        command
            .envs(environment.iter().copied())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (write, log) = watch::channel(Vec::new());
        let mut reader = JoinSet::new();
        // Always read, or a full pipe would stop the server.
        reader.spawn(async move {
            while let Some(line) = lines.next_line().await.unwrap() {
                write.send_modify(|log| log.push(line));
            }
        });
        let mut server = Self {
            child,
            log,
            _reader: reader,
            address: String::new(),
        };
        let line = server.line_with("\"address\"").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        server.address = line["address"].as_str().unwrap().to_owned();
        server
    }

    pub(crate) fn url(&self) -> url::Url {
        format!("ws://{}/", self.address).parse().unwrap()
    }

    /// Waits for the first line that contains `part`.
    pub(crate) async fn line_with(&mut self, part: &str) -> String {
        let found = |log: &Vec<String>| log.iter().any(|line| line.contains(part));
        let waited = timeout(PATIENCE, self.log.wait_for(found))
            .await
            .is_ok_and(|log| log.is_ok());
        let log = self.log.borrow();
        let line = log.iter().find(|line| line.contains(part));
        let Some(line) = line.filter(|_| waited) else {
            panic!("no {part}: {log:#?}")
        };
        line.clone()
    }

    /// Everything so far.
    pub(crate) fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let response = timeout(PATIENCE, reqwest::get(url))
            .await
            .expect("answers")
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Resident memory in bytes, on Linux.
    pub(crate) fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    }

    #[cfg(unix)]
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("still running").to_string();
        let status = Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .await
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process and of its log.
    #[cfg(unix)]
    pub(crate) async fn code(&mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("ends")
            .unwrap();
        let _ = timeout(PATIENCE, self.log.wait_for(|_| false))
            .await
            .expect("the log ends");
        status.code()
    }
}
