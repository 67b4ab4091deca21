use super::*;
use crate::local::{
    runtime::tests::{model_dir, runtime},
    testing::speech,
};

const FILE: &str = "silero_vad_op18_ifless.onnx";

fn real(file: &str) -> Option<Silero> {
    let models = model_dir()?;
    Some(Silero::load(&runtime(&models), &models.join("silero").join(file)).unwrap())
}

fn scores(detector: &mut SileroDetector, audio: &[i16]) -> Vec<f32> {
    let (frames, _) = audio.as_chunks();
    frames
        .iter()
        .map(|frame| detector.score(frame).unwrap())
        .collect()
}

/// Expected values: the same model driven by its authors' Python.
#[test]
fn voice_is_told_from_silence_as_by_the_authors() {
    let Some(silero) = real(FILE) else { return };
    let scores = scores(&mut silero.detector(), &speech());
    assert_eq!(scores.len(), 114);
    let expected = [0.027, 0.017, 0.011, 0.007, 0.005, 0.017, 0.612, 0.963];
    for (ours, theirs) in scores.iter().zip(expected) {
        assert!((ours - theirs).abs() < 0.01, "{ours} {theirs}");
    }
    let mean = scores.iter().sum::<f32>() / scores.len() as f32;
    assert!((mean - 0.917).abs() < 0.01, "{mean}");
}

#[test]
fn calls_do_not_hear_each_other_and_reset_forgets() {
    let Some(silero) = real(FILE) else { return };
    let (mut one, mut other) = (silero.detector(), silero.detector());
    let speech = speech();
    let first = scores(&mut one, &speech);
    assert_eq!(scores(&mut other, &speech), first);
    assert_ne!(scores(&mut one, &speech), first);
    one.reset();
    assert_eq!(scores(&mut one, &speech), first);
}

#[test]
fn threads_score_at_the_same_time() {
    let Some(silero) = real(FILE) else { return };
    let speech = speech();
    let alone = scores(&mut silero.detector(), &speech);
    std::thread::scope(|scope| {
        let threads = [0; 4].map(|_| scope.spawn(|| scores(&mut silero.detector(), &speech)));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), alone);
        }
    });
}

#[test]
fn silence_clipping_and_offsets_do_no_harm() {
    let Some(silero) = real(FILE) else { return };
    let mut detector = silero.detector();
    for audio in [vec![0; 160_000], vec![i16::MAX; 48_000]] {
        let scores = scores(&mut detector, &audio);
        assert!(
            scores.iter().skip(2).all(|score| *score < 0.5),
            "{scores:?}"
        );
    }
    let clipped: Vec<i16> = speech().iter().map(|s| s.saturating_mul(8)).collect();
    let shifted: Vec<i16> = speech().iter().map(|s| s.saturating_add(9_000)).collect();
    for audio in [clipped, shifted] {
        let scores = scores(&mut detector, &audio);
        let voiced = scores.iter().filter(|score| **score > 0.5).count();
        assert!(voiced > 90, "{voiced} of {}", scores.len());
    }
}

#[test]
fn quiet_is_forgotten_and_speech_is_not() {
    let Some(silero) = real(FILE) else { return };
    let mut detector = silero.detector();
    let mut forgotten = 0;
    for frame in [[0; FRAME_SAMPLES]; 200] {
        detector.score(&frame).unwrap();
        forgotten += u32::from(detector.since_forgotten == 0);
    }
    assert_eq!(forgotten, 3);
    detector.reset();
    for frame in speech().as_chunks().0 {
        detector.score(frame).unwrap();
        assert_ne!(detector.since_forgotten, 0);
    }
}

#[test]
fn the_other_published_files_work_too() {
    let Some(models) = model_dir() else { return };
    for file in ["silero_vad.onnx", "silero_vad_16k_op15.onnx"] {
        // `llmrtc models fetch` leaves them out.
        if !models.join("silero").join(file).exists() {
            continue;
        }
        let Some(silero) = real(file) else { return };
        let scores = scores(&mut silero.detector(), &speech()[..512 * 8]);
        assert!(scores[4] < 0.1 && scores[7] > 0.9, "{scores:?}");
    }
}

#[test]
fn another_model_is_refused() {
    let Some(models) = model_dir() else { return };
    let path = models.join("smart-turn/smart-turn-v3.2-cpu.onnx");
    let error = Silero::load(&runtime(&models), &path).unwrap_err();
    assert!(matches!(error, RuntimeError::Model { .. }), "{error:?}");
}
