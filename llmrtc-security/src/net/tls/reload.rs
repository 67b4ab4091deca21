//! Following the files of certificates.
//!
//! The folders are watched, not the files: certificates are replaced by renaming, and in a Kubernetes volume by turning
//! a symbolic link (`..data`) that lies beside them. Network file systems report nothing, so the files are also read
//! once in a while.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use llmrtc_core::tasks::Tasks;
use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::mpsc, time::sleep};

use super::{Loaded, TlsAcceptor, TlsConfig, TlsLoadError, load};

/// Certificate and key are written one after the other; half a pair is not worth an alarm.
const SETTLE: Duration = Duration::from_millis(300);
/// Without news.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);

/// What became of a change.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsReload {
    /// New handshakes use the new files.
    Reloaded(TlsChange),
    /// A file cannot be used. The old ones stay in use: alert, before they expire.
    Kept(TlsLoadError),
    /// Changes cannot be watched; they are noticed within a minute.
    Unwatched(notify::Error),
}

/// What is different in files that were read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsChange {
    /// The settings that name the files with other content, such as `tls.certificates.0.cert_file`. None when the files
    /// are as before and only had a fault in between.
    pub settings: Vec<String>,
    /// The certificates that were replaced, such as `tls.certificates.0`, with the SHA-256 of the new one in hexadecimal.
    pub certificates: Vec<(String, String)>,
}

impl TlsChange {
    /// `config` is that of both.
    fn between(before: &Loaded, after: &Loaded, config: &TlsConfig) -> Self {
        let pair = |index| format!("tls.certificates.{index}");
        let pairs = 0..config.certificates.len();
        let files = pairs
            .flat_map(|index| {
                ["cert_file", "key_file"].map(|file| format!("{}.{file}", pair(index)))
            })
            .chain(["tls.client_ca_file".to_owned()]);
        let prints = before.prints.iter().zip(&after.prints);
        let leaves = before.leaves.iter().zip(&after.leaves).enumerate();
        Self {
            settings: files
                .zip(prints)
                .filter_map(|(setting, (before, after))| (before != after).then_some(setting))
                .collect(),
            certificates: leaves
                .filter(|(_, (before, after))| before != after)
                .filter_map(|(index, (_, after))| Some((pair(index), hex(after.as_ref()?))))
                .collect(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TlsAcceptor {
    /// Follows the files in `tasks` and tells `report` what became of each change.
    pub fn watch(&self, tasks: &Tasks, report: impl Fn(TlsReload) + Send + Sync + 'static) {
        let acceptor = self.clone();
        tasks
            .spawn_service("tls-reload", |leaving| async move {
                tokio::select! {
                    biased;
                    () = leaving.cancelled() => {}
                    () = acceptor.follow(report) => {}
                }
            })
            .detach();
    }

    async fn follow(self, report: impl Fn(TlsReload) + Send + Sync) {
        // Room for one: a change that nobody has looked at yet covers all further ones.
        let (changed, mut changes) = mpsc::channel::<()>(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is reported too, our own included.
            let written = AccessKind::Close(AccessMode::Write);
            let read = |kind| matches!(kind, EventKind::Access(access) if access != written);
            if !event.is_ok_and(|event| read(event.kind)) {
                let _ = changed.try_send(());
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            for folder in self.folders() {
                watcher.watch(&folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watching {
            let error = notify::Error::generic(&error.to_string());
            report(TlsReload::Unwatched(error));
        }
        let mut kept = false;
        loop {
            // The first round catches what changed before there was a watch.
            let acceptor = self.clone();
            let loaded = tokio::task::spawn_blocking(move || load::load(&acceptor.config)).await;
            match loaded {
                Ok(Ok(loaded)) => {
                    // After a failure even the old content is news: all is well again.
                    let change = TlsChange::between(&self.current.load(), &loaded, &self.config);
                    if std::mem::take(&mut kept) || !change.settings.is_empty() {
                        self.current.store(Arc::new(loaded));
                        report(TlsReload::Reloaded(change));
                    }
                }
                Ok(Err(error)) => {
                    kept = true;
                    report(TlsReload::Kept(error));
                }
                // The runtime is shutting down.
                Err(_) => {}
            }
            tokio::select! {
                Some(()) = changes.recv() => {
                    sleep(SETTLE).await;
                    let _ = changes.try_recv();
                }
                () = sleep(LOOK_ANYWAY) => {}
            }
        }
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let pairs = &self.config.certificates;
        let files = pairs
            .iter()
            .flat_map(|pair| [&pair.cert_file, &pair.key_file]);
        files
            .chain(&self.config.client_ca_file)
            .map(|file| match file.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
                _ => PathBuf::from("."),
            })
            .collect()
    }
}
