//! ONNX Runtime, loaded at run time from an explicit path.
//!
//! The library is neither linked nor fetched by a build: the operator names a file, and [`Runtime::load`] says in a typed
//! error what is wrong with it. Nothing here searches the system for a library, because one that is found by chance is
//! one that nobody has tested.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use llmrtc_core::provider::{BoxError, ErrorKind, ProviderError};
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel},
};

use super::pool::PoolError;

/// Why a library or a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// There is no such file.
    #[error(
        "no ONNX Runtime at {}: install it, and name the library file (libonnxruntime.so on Linux)",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is no shared library of this system, or not ONNX Runtime.
    #[error("{} cannot be loaded as ONNX Runtime: name the library for this system", path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What the loader says.
        #[source]
        source: BoxError,
    },
    /// The library is older than what we call.
    #[error("{} is ONNX Runtime {found}, which is too old: install {needed} or newer", path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest version that will do.
        needed: String,
    },
    /// A process holds one ONNX Runtime, and it is another one.
    #[error(
        "ONNX Runtime was loaded from {} already: restart to use {}", loaded.display(), path.display()
    )]
    OtherPath {
        /// The file asked for.
        path: PathBuf,
        /// The file in use.
        loaded: PathBuf,
    },
    /// The library refuses to start.
    #[error("ONNX Runtime does not start")]
    Start(#[source] ort::Error),
    /// There is no such model file.
    #[error("no model at {}: fetch it, or correct the model folder", path.display())]
    MissingModel {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is not the model it should be.
    #[error("{} is not the model it should be: fetch it again", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// A model that was loaded cannot be run.
    #[error("{model} failed")]
    Run {
        /// The model's file name.
        model: String,
        /// What ONNX Runtime says.
        #[source]
        source: ort::Error,
    },
    /// The inference threads could not run it.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl RuntimeError {
    /// The same failure as one of a provider.
    pub(crate) fn into_provider(self, provider: &str) -> ProviderError {
        let kind = match &self {
            Self::Pool(PoolError::Full) => ErrorKind::Unavailable,
            Self::Pool(_) | Self::Run { .. } => ErrorKind::Other,
            _ => ErrorKind::Config,
        };
        ProviderError::new(kind, provider, self.to_string()).with_source(self)
    }
}

/// ONNX Runtime in this process. Clones are the same one.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    path: Arc<Path>,
}

/// The library of this process: it can be loaded once, and is never unloaded.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library at `path`, or returns the one that was loaded from there before.
    ///
    /// Blocks for some tens of milliseconds and runs the library's initialisers: name only files you would execute.
    ///
    /// # Errors
    /// [`RuntimeError`], before anything was started; a later call with a better path may succeed.
    pub fn load(path: &Path) -> Result<Self, RuntimeError> {
        // Absolute, or the loader would search the system for the name; links resolved, so that one file is one path.
        let path = path
            .canonicalize()
            .ok()
            .filter(|file| file.is_file())
            .ok_or_else(|| RuntimeError::Missing { path: path.into() })?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some(runtime) if *runtime.path == *path => return Ok(runtime.clone()),
            Some(runtime) => {
                return Err(RuntimeError::OtherPath {
                    path,
                    loaded: runtime.path.to_path_buf(),
                });
            }
            None => {}
        }
        // Never by way of another call: without a library they all panic.
        let environment = ort::init_from(&path)
            .map_err(|error| not_loaded(path.clone(), error))?
            .with_name("llmrtc")
            .with_telemetry(false)
            .build()
            .map_err(RuntimeError::Start)?;
        // What goes wrong comes back as an error; the library's own lines on standard error would only repeat it.
        environment.set_log_level(LogLevel::Fatal);
        let runtime = Self {
            environment,
            path: path.into(),
        };
        Ok(loaded.insert(runtime).clone())
    }

    /// The library's file, links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, model: &Path) -> ort::Result<Session> {
        let session = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // The pool decides how many threads compute. Threads of a model's own would fight it for the cores, and
            // spinning ones starve the audio on small machines.
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            // Plans memory for input shapes that come again. Ours differ from call to call.
            .with_memory_pattern(false)?
            .commit_from_file(model)?;
        Ok(session)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("path", &self.path).finish()
    }
}

fn not_loaded(path: PathBuf, error: ort::LoadDynamicError) -> RuntimeError {
    match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => RuntimeError::TooOld {
            path,
            found: version_str,
            needed: format!("1.{}", ort::MINOR_VERSION),
        },
        error => RuntimeError::NotALibrary {
            path,
            source: error.into(),
        },
    }
}

/// A model in memory, as many times as it is used at the same time.
///
/// The bindings run a session for one caller at a time, because not all of the library is safe to share. So callers
/// check sessions out; one more is opened only when all are in use, which the pool's threads bound.
pub(crate) struct Model {
    runtime: Runtime,
    path: PathBuf,
    idle: Mutex<Vec<Session>>,
}

impl Model {
    /// Loads the model. `valid` says what is wrong if it is another one than expected.
    pub(crate) fn load(
        runtime: &Runtime,
        path: &Path,
        valid: impl FnOnce(&Session) -> Result<(), &'static str>,
    ) -> Result<Self, RuntimeError> {
        if !path.is_file() {
            return Err(RuntimeError::MissingModel { path: path.into() });
        }
        let wrong = |source: BoxError| RuntimeError::Model {
            path: path.into(),
            source,
        };
        let session = runtime.open(path).map_err(|error| wrong(error.into()))?;
        valid(&session).map_err(|reason| wrong(reason.into()))?;
        Ok(Self {
            runtime: runtime.clone(),
            path: path.into(),
            idle: Mutex::new(vec![session]),
        })
    }

    /// Runs `work` with a session. Blocks for as long as `work` does, plus the time to open one more where needed.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Session) -> ort::Result<T>,
    ) -> Result<T, RuntimeError> {
        let idle = self.idle().pop();
        let failed = |source| RuntimeError::Run {
            model: self.name(),
            source,
        };
        let mut session = match idle {
            Some(session) => session,
            None => self.runtime.open(&self.path).map_err(failed)?,
        };
        let result = work(&mut session).map_err(failed);
        self.idle().push(session);
        result
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("path", &self.path).finish()
    }
}

/// Whether a model has these inputs and outputs: tells a file of the wrong name from one that is damaged.
pub(crate) fn has_ports(
    session: &Session,
    inputs: &[&str],
    outputs: &[&str],
) -> Result<(), &'static str> {
    let has = |ports: &[ort::value::Outlet], names: &[&str]| {
        names
            .iter()
            .all(|name| ports.iter().any(|port| port.name() == *name))
    };
    if !has(session.inputs(), inputs) {
        return Err("it lacks an input of that model");
    }
    if !has(session.outputs(), outputs) {
        return Err("it lacks an output of that model");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The folder with model files, if this machine has one.
    pub(crate) fn model_dir() -> Option<PathBuf> {
        #[expect(
            clippy::disallowed_methods,
            reason = "tests are told where the models are"
        )]
        let dir = std::env::var("LLMRTC_MODEL_DIR").ok().map(PathBuf::from);
        if dir.is_none() {
            println!("skipped: LLMRTC_MODEL_DIR is not set");
        }
        dir
    }

    /// The runtime of that folder.
    pub(crate) fn runtime(models: &Path) -> Runtime {
        Runtime::load(&models.join("onnxruntime/libonnxruntime.so.1")).unwrap()
    }

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_do() {
        let error = Runtime::load(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
        assert!(matches!(error, RuntimeError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains("install it"), "{error}");
        // A folder is no library either.
        let error = Runtime::load(&std::env::temp_dir()).unwrap_err();
        assert!(matches!(error, RuntimeError::Missing { .. }), "{error:?}");
    }

    #[test]
    fn what_is_no_library_is_an_error_with_a_cause() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = Runtime::load(&file).unwrap_err();
        if matches!(error, RuntimeError::OtherPath { .. }) {
            // Another test of this process has loaded a library, and there is only one.
            return;
        }
        assert!(
            matches!(error, RuntimeError::NotALibrary { .. }),
            "{error:?}"
        );
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn an_old_library_is_named_with_both_versions() {
        let error = not_loaded(
            "/lib/libonnxruntime.so".into(),
            ort::LoadDynamicError::BadVersion {
                version_str: "1.14.1".into(),
                path: "/lib/libonnxruntime.so".into(),
            },
        );
        let text = error.to_string();
        assert!(text.contains("1.14.1") && text.contains("1.17"), "{text}");
    }

    #[test]
    fn one_library_is_loaded_once_and_no_other_beside_it() {
        let Some(models) = model_dir() else { return };
        let runtime = runtime(&models);
        assert_eq!(
            Runtime::load(runtime.path()).unwrap().path(),
            runtime.path()
        );
        let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = Runtime::load(&other).unwrap_err();
        assert!(matches!(error, RuntimeError::OtherPath { .. }), "{error:?}");
    }

    #[test]
    fn a_model_that_is_missing_or_another_is_an_error() {
        let Some(models) = model_dir() else { return };
        let runtime = runtime(&models);
        let load = |path: &Path| {
            Model::load(&runtime, path, |session| {
                has_ports(session, &["no such"], &[])
            })
        };
        let error = load(&models.join("none.onnx")).unwrap_err();
        assert!(
            matches!(error, RuntimeError::MissingModel { .. }),
            "{error:?}"
        );
        let error = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap_err();
        assert!(matches!(error, RuntimeError::Model { .. }), "{error:?}");
        let error = load(&models.join("silero/silero_vad_op18_ifless.onnx")).unwrap_err();
        assert!(matches!(error, RuntimeError::Model { .. }), "{error:?}");
    }
}
