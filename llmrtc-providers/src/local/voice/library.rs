//! The C libraries behind safe functions: the one place of the project with `unsafe`.
//!
//! Libraries stay loaded until the process ends. They have global state, and nobody could tell whether a pointer into
//! them is left somewhere.
#![expect(
    unsafe_code,
    reason = "C functions are found and called at run time; each block says why it is sound"
)]

use std::{
    cell::RefCell,
    ffi::{CStr, OsStr, c_char, c_float, c_int, c_short, c_uchar, c_uint, c_void},
    path::PathBuf,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

use libloading::Library;

use super::{error::VoiceError, tape::Tape};

thread_local! {
    /// Where the samples of the call go that this thread is in. Both libraries call back on the thread that called
    /// them; going by the thread spares us their ways of passing a pointer through.
    static TAPE: RefCell<Option<Arc<Tape>>> = const { RefCell::new(None) };
}

/// Appends samples to the tape of the call. `false`: the library shall stop.
///
/// # Safety
/// `samples` must be null or point to `count` samples that nobody writes to meanwhile.
unsafe fn write_to_tape(samples: *const c_short, count: c_int) -> bool {
    let count = usize::try_from(count).unwrap_or(0);
    if samples.is_null() || count == 0 {
        return TAPE.with_borrow(|tape| tape.as_ref().is_some_and(|tape| !tape.is_stopped()));
    }
    // SAFETY: the caller's promise.
    let samples = unsafe { slice::from_raw_parts(samples, count) };
    TAPE.with_borrow(|tape| tape.as_ref().is_some_and(|tape| tape.write(samples)))
}

/// Makes `tape` that of this thread while `call` runs.
fn with_tape<T>(tape: &Arc<Tape>, call: impl FnOnce() -> T) -> T {
    TAPE.set(Some(Arc::clone(tape)));
    let result = call();
    TAPE.set(None);
    result
}

/// Loads a library for the rest of the process.
fn load(name: &OsStr, remedy: &'static str) -> Result<&'static Library, VoiceError> {
    // SAFETY: the initialisers of these libraries fill their own tables and ask nothing of their caller.
    let library = unsafe { Library::new(name) }.map_err(|source| VoiceError::Library {
        library: name.display().to_string(),
        remedy,
        source: source.into(),
    })?;
    Ok(Box::leak(Box::new(library)))
}

/// Finds a function.
///
/// # Safety
/// `F` must be the type of a pointer to the function of this name, as the library's header declares it.
unsafe fn find<F: Copy>(
    library: &'static Library,
    file: &OsStr,
    symbol: &str,
) -> Result<F, VoiceError> {
    // SAFETY: the caller's promise; the library is never unloaded, so the pointer stays valid.
    match unsafe { library.get::<F>(symbol) } {
        Ok(function) => Ok(*function),
        Err(_) => Err(VoiceError::Symbol {
            library: file.display().to_string(),
            symbol: symbol.into(),
        }),
    }
}

/// `cst_wave` of Flite 2.
#[repr(C)]
struct FliteWave {
    kind: *const c_char,
    sample_rate: c_int,
    num_samples: c_int,
    num_channels: c_int,
    samples: *mut c_short,
}

/// The beginning of `cst_voice` of Flite 2; it is only looked at through pointers.
#[repr(C)]
struct FliteVoice {
    name: *const c_char,
    features: *mut c_void,
}

type FliteOnAudio =
    unsafe extern "C" fn(*const FliteWave, c_int, c_int, c_int, *mut c_void) -> c_int;

/// `cst_audio_streaming_info` of Flite 2.
#[repr(C)]
struct FliteStreaming {
    min_buffsize: c_int,
    on_audio: Option<FliteOnAudio>,
    utterance: *const c_void,
    item: *const c_void,
    userdata: *mut c_void,
}

/// Flite. Its voices are global, so there must be one of these at a time.
pub(super) struct FliteLibrary {
    text_to_wave: unsafe extern "C" fn(*const c_char, *mut FliteVoice) -> *mut FliteWave,
    delete_wave: unsafe extern "C" fn(*mut FliteWave),
    set_float: unsafe extern "C" fn(*mut c_void, *const c_char, c_float),
    set_value: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void),
    new_streaming: unsafe extern "C" fn() -> *mut FliteStreaming,
    streaming_value: unsafe extern "C" fn(*mut FliteStreaming) -> *const c_void,
    voices: Vec<NonNull<FliteVoice>>,
}

// SAFETY: the pointers are to the library's own memory, which no thread owns. Calls need `&mut self`, so that one
// thread at a time makes them.
unsafe impl Send for FliteLibrary {}

/// Samples after which Flite hands over what it has: 50 ms at its rate.
const FLITE_PIECE: c_int = 800;

impl FliteLibrary {
    pub(super) fn load(file: &OsStr, remedy: &'static str) -> Result<Self, VoiceError> {
        let library = load(file, remedy)?;
        // SAFETY: the types are those of flite.h, cst_wave.h, cst_features.h and cst_audio.h of Flite 2.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = find(library, file, "flite_init")?;
            let this = Self {
                text_to_wave: find(library, file, "flite_text_to_wave")?,
                delete_wave: find(library, file, "delete_wave")?,
                set_float: find(library, file, "flite_feat_set_float")?,
                set_value: find(library, file, "flite_feat_set")?,
                new_streaming: find(library, file, "new_audio_streaming_info")?,
                streaming_value: find(library, file, "audio_streaming_info_val")?,
                voices: Vec::new(),
            };
            init();
            Ok(this)
        }
    }

    /// Loads a voice and returns its number. `register` is the name of the function that makes it.
    pub(super) fn add_voice(
        &mut self,
        file: &OsStr,
        register: &str,
        remedy: &'static str,
    ) -> Result<usize, VoiceError> {
        let library = load(file, remedy)?;
        let missing = || VoiceError::Symbol {
            library: file.display().to_string(),
            symbol: register.into(),
        };
        // SAFETY: `register_cmu_us_*` take a folder that voices of this kind do without, and return a voice that lives
        // as long as the library. The streaming value belongs to the voice from here on; the voice's features copy
        // the name.
        unsafe {
            let register: unsafe extern "C" fn(*const c_char) -> *mut FliteVoice =
                find(library, file, register)?;
            let voice = NonNull::new(register(ptr::null())).ok_or_else(missing)?;
            let streaming = (self.new_streaming)();
            if streaming.is_null() {
                return Err(missing());
            }
            (*streaming).min_buffsize = FLITE_PIECE;
            (*streaming).on_audio = Some(on_flite_audio);
            let value = (self.streaming_value)(streaming);
            (self.set_value)(
                (*voice.as_ptr()).features,
                c"streaming_info".as_ptr(),
                value,
            );
            self.voices.push(voice);
        }
        Ok(self.voices.len() - 1)
    }

    /// Speaks with a voice of [`add_voice`](Self::add_voice). `stretch`: how much longer than usual it takes.
    ///
    /// Returns the sample rate, or `None` if the library made nothing of the text.
    pub(super) fn speak(
        &mut self,
        voice: usize,
        text: &CStr,
        stretch: f32,
        tape: &Arc<Tape>,
    ) -> Option<u32> {
        let voice = self.voices.get(voice)?.as_ptr();
        // SAFETY: the voice lives as long as the library. The wave is ours until it is deleted, and its fields say
        // what it has. `text` ends with NUL and is only read.
        unsafe {
            (self.set_float)((*voice).features, c"duration_stretch".as_ptr(), stretch);
            let wave = with_tape(tape, || (self.text_to_wave)(text.as_ptr(), voice));
            let made = NonNull::new(wave)?.as_ref();
            let rate = u32::try_from(made.sample_rate)
                .ok()
                .filter(|rate| *rate > 0);
            // A voice of a kind that does not stream leaves it all to the end.
            if tape.written() == 0 && !tape.is_stopped() {
                with_tape(tape, || write_to_tape(made.samples, made.num_samples));
            }
            (self.delete_wave)(wave);
            rate
        }
    }
}

/// Flite has samples: those of `wave` from `start`. 0 is to go on, −1 to stop.
unsafe extern "C" fn on_flite_audio(
    wave: *const FliteWave,
    start: c_int,
    size: c_int,
    _last: c_int,
    _streaming: *mut c_void,
) -> c_int {
    if wave.is_null() || start < 0 {
        return -1;
    }
    // SAFETY: Flite passes a wave with `start + size` samples, and waits for us.
    let go_on = unsafe {
        let samples = (*wave).samples.cast_const();
        match usize::try_from(start) {
            Ok(start) if !samples.is_null() => write_to_tape(samples.add(start), size),
            _ => write_to_tape(ptr::null(), 0),
        }
    };
    if go_on { 0 } else { -1 }
}

/// `espeak_VOICE` of speak_lib.h.
#[repr(C)]
struct EspeakVoice {
    name: *const c_char,
    /// Pairs of a priority and a name that ends with NUL; a priority of 0 ends the list.
    languages: *const c_char,
    identifier: *const c_char,
    gender: c_uchar,
    age: c_uchar,
    variant: c_uchar,
    xx1: c_uchar,
    score: c_int,
    spare: *mut c_void,
}

/// A voice that eSpeak offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VoiceInfo {
    /// Such as `English (America)`.
    pub(super) name: String,
    /// Such as `gmw/en-US`: the file below the data folder.
    pub(super) identifier: String,
    /// Language tags in lower case, such as `en-us`, `en`.
    pub(super) languages: Vec<String>,
}

/// eSpeak NG. All its state is global, so there must be one of these at a time.
pub(super) struct EspeakLibrary {
    synth: unsafe extern "C" fn(
        *const c_void,
        usize,
        c_uint,
        c_int,
        c_uint,
        c_uint,
        *mut c_uint,
        *mut c_void,
    ) -> c_int,
    set_parameter: unsafe extern "C" fn(c_int, c_int, c_int) -> c_int,
    set_voice: unsafe extern "C" fn(*const c_char) -> c_int,
    list_voices: unsafe extern "C" fn(*mut c_void) -> *const *const EspeakVoice,
    info: unsafe extern "C" fn(*mut *const c_char) -> *const c_char,
    /// In hertz.
    pub(super) rate: u32,
}

/// `AUDIO_OUTPUT_SYNCHRONOUS`: `espeak_Synth` returns when all is spoken, and calls back on its caller's thread.
const SYNCHRONOUS: c_int = 2;
/// `espeakINITIALIZE_DONT_EXIT`: without it a missing file ends the process.
const DONT_EXIT: c_int = 0x8000;
/// `espeakCHARS_UTF8`. Neither `espeakSSML` nor `espeakPHONEMES`: texts are words, not commands.
const UTF8: c_uint = 1;
/// `espeakRATE`: words per minute.
const RATE: c_int = 1;
/// `POS_CHARACTER`.
const POS_CHARACTER: c_int = 1;
/// After so many milliseconds of sound eSpeak hands over what it has.
const ESPEAK_PIECE_MS: c_int = 50;

impl EspeakLibrary {
    /// Loads the library, which must not be in use, and lets it read its data; `None`: it cannot.
    pub(super) fn load(
        file: &OsStr,
        data: Option<&CStr>,
        remedy: &'static str,
    ) -> Result<Option<Self>, VoiceError> {
        let library = load(file, remedy)?;
        // SAFETY: the types are those of speak_lib.h, unchanged since eSpeak 1.29. The callback matches
        // `t_espeak_callback`.
        unsafe {
            let initialize: unsafe extern "C" fn(c_int, c_int, *const c_char, c_int) -> c_int =
                find(library, file, "espeak_Initialize")?;
            type Callback = unsafe extern "C" fn(*mut c_short, c_int, *mut c_void) -> c_int;
            let set_callback: unsafe extern "C" fn(Callback) =
                find(library, file, "espeak_SetSynthCallback")?;
            let mut this = Self {
                synth: find(library, file, "espeak_Synth")?,
                set_parameter: find(library, file, "espeak_SetParameter")?,
                set_voice: find(library, file, "espeak_SetVoiceByName")?,
                list_voices: find(library, file, "espeak_ListVoices")?,
                info: find(library, file, "espeak_Info")?,
                rate: 0,
            };
            let data = data.map_or(ptr::null(), CStr::as_ptr);
            let rate = initialize(SYNCHRONOUS, ESPEAK_PIECE_MS, data, DONT_EXIT);
            this.rate = match u32::try_from(rate) {
                Ok(rate) if rate > 0 => rate,
                _ => return Ok(None),
            };
            set_callback(on_espeak_audio);
            Ok(Some(this))
        }
    }

    /// The folder that its data came from.
    pub(super) fn data(&self) -> PathBuf {
        let mut path = ptr::null();
        // SAFETY: the library points `path` to a string of its own, which stays as it is after the initialisation.
        unsafe {
            (self.info)(&mut path);
            owned(path).into()
        }
    }

    pub(super) fn voices(&mut self) -> Vec<VoiceInfo> {
        let mut voices = Vec::new();
        // SAFETY: the list ends with null and stays valid until the next call of this function, which needs
        // `&mut self`. Its strings end with NUL; `languages` is read up to the priority that ends it.
        unsafe {
            let mut next = (self.list_voices)(ptr::null_mut());
            while let Some(voice) = next.as_ref().and_then(|voice| voice.as_ref()) {
                voices.push(VoiceInfo {
                    name: owned(voice.name),
                    identifier: owned(voice.identifier),
                    languages: languages(voice.languages),
                });
                next = next.add(1);
            }
        }
        voices
    }

    /// Chooses a voice by its identifier. `false`: there is none.
    pub(super) fn set_voice(&mut self, identifier: &CStr) -> bool {
        // SAFETY: the name ends with NUL and is copied.
        unsafe { (self.set_voice)(identifier.as_ptr()) == 0 }
    }

    /// Speaks; `false` if the library refuses.
    pub(super) fn speak(&mut self, text: &CStr, words_per_minute: i32, tape: &Arc<Tape>) -> bool {
        let size = text.count_bytes() + 1;
        // SAFETY: `text` has `size` bytes, ends with NUL and is only read, before the call returns.
        unsafe {
            (self.set_parameter)(RATE, words_per_minute, 0);
            with_tape(tape, || {
                (self.synth)(
                    text.as_ptr().cast(),
                    size,
                    0,
                    POS_CHARACTER,
                    0,
                    UTF8,
                    ptr::null_mut(),
                    ptr::null_mut(),
                ) == 0
            })
        }
    }
}

/// eSpeak has samples, or is finished (null). 0 is to go on, 1 to stop.
unsafe extern "C" fn on_espeak_audio(
    samples: *mut c_short,
    count: c_int,
    _events: *mut c_void,
) -> c_int {
    // SAFETY: eSpeak passes its buffer and waits for us.
    let go_on = unsafe { write_to_tape(samples, count) };
    c_int::from(!go_on)
}

/// # Safety
/// `text` must be null or end with NUL.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// # Safety
/// `list` must be null or a list of [`EspeakVoice::languages`].
unsafe fn languages(mut list: *const c_char) -> Vec<String> {
    let mut found = Vec::new();
    // SAFETY: every step stays within the list: over a priority that is not 0, then over a name and its NUL.
    unsafe {
        while !list.is_null() && *list != 0 {
            let name = CStr::from_ptr(list.add(1));
            found.push(name.to_string_lossy().to_ascii_lowercase());
            list = list.add(1 + name.count_bytes() + 1);
        }
    }
    found
}
