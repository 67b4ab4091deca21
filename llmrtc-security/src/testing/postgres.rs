use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Stdio,
};

use llmrtc_core::redact::Secret;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{find_program, free_port, wait_for_port};

/// Where Debian keeps PostgreSQL's programs.
const DEBIAN: [&str; 3] = [
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/17/bin",
];

/// `nobody`: PostgreSQL refuses to run as root, which is who runs tests in a container.
const UNPRIVILEGED: u32 = 65_534;

/// A PostgreSQL of one's own.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    folder: TempDir,
    process: Child,
}

impl PostgresServer {
    /// Creates a cluster, starts it and waits until it answers.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub async fn start() -> Self {
        let (folder, port) = (TempDir::new().expect("a temporary folder"), free_port());
        if is_root() {
            chown(folder.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED))
                .expect("root may give away its folder");
        }
        let status = program("initdb", folder.path())
            .args([
                "--pgdata",
                "data",
                "--auth",
                "trust",
                "--username",
                "llmrtc",
                "--no-sync",
            ])
            .args(["--encoding", "UTF8", "--locale", "C"])
            .stdout(Stdio::null())
            .status()
            .await
            .expect("initdb starts");
        assert!(status.success(), "initdb failed: {status}");
        let process = spawn(folder.path(), port);
        let server = Self {
            port,
            folder,
            process,
        };
        server.ready().await;
        server
    }

    /// The database `postgres`, for its owner.
    pub fn url(&self) -> Secret {
        Secret::new(format!(
            "postgres://llmrtc@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        ))
    }

    /// Kills it (`kill -9`), children and all.
    ///
    /// # Panics
    /// When the process cannot be killed.
    pub async fn kill(&mut self) {
        self.process
            .kill()
            .await
            .expect("our own child can be killed");
        // Its children notice by themselves, and hold the data folder until then.
        let _ = fs::remove_file(self.folder.path().join("data/postmaster.pid"));
    }

    /// Starts it again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process = spawn(self.folder.path(), self.port);
        self.ready().await;
    }

    /// The folder with all of its data, to look for what must not be there.
    pub fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    async fn ready(&self) {
        wait_for_port(self.port, &self.folder.path().join("log")).await;
        // The port opens before recovery is over.
        loop {
            let status = program("pg_isready", self.folder.path())
                .args([
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &self.port.to_string(),
                    "--quiet",
                ])
                .status()
                .await
                .expect("pg_isready starts");
            if status.success() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

fn program(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(find_program(name, &DEBIAN));
    command
        .current_dir(folder)
        .env_remove("PGDATA")
        .env_remove("PGPORT")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command
}

fn spawn(folder: &Path, port: u16) -> Child {
    let path = folder.join("log");
    let log = File::create(&path).expect("a file in our own folder");
    let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
    program("postgres", folder)
        .args([
            "-D",
            "data",
            "-h",
            "127.0.0.1",
            "-k",
            "",
            "-p",
            &port.to_string(),
        ])
        .args([
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=16MB",
            "-c",
            "max_connections=50",
        ])
        .stderr(log)
        .stdout(Stdio::null())
        .spawn()
        .expect("postgres starts")
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_server_comes_back() {
        let mut server = PostgresServer::start().await;
        server.kill().await;
        server.restart().await;
    }
}
