//! Parses captures.

use vcgate_capture::diagnose::Diagnosis;

/// Diagnoses the input as a capture. The report stays proportional to it.
pub fn diagnose(bytes: &[u8]) {
    if let Ok(diagnosis) = Diagnosis::read(bytes) {
        let text = serde_json::to_string(diagnosis.report()).expect("a report is JSON");
        assert!(text.len() < (1 << 20) + 64 * bytes.len());
    }
}
