//! The QR code of a text, as an image.

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

/// The minimum width and height of an image in pixels.
const MIN_IMAGE_SIZE: u32 = 400;

/// The error for a text that no code can hold.
#[derive(Debug, thiserror::Error)]
#[error("it is too long for a QR code")]
pub struct TooLong;

/// Encodes a text with the lowest error correction, as the WireGuard apps expect of a screen.
///
/// # Errors
/// If the text is too long.
pub fn encode(text: &str) -> Result<QrCode, TooLong> {
    QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| TooLong)
}

/// Renders the code for `text` as an SVG image.
///
/// # Errors
/// If the text is too long.
pub fn svg(text: &str) -> Result<String, TooLong> {
    let code = encode(text)?;
    let mut image = code.render::<svg::Color<'_>>();
    image.min_dimensions(MIN_IMAGE_SIZE, MIN_IMAGE_SIZE);
    Ok(image.build() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use qrcode::Color;

    /// The image draws one square for each dark module, at its place.
    #[test]
    fn an_image_has_the_modules_of_the_code() {
        let image = svg("anna").unwrap();
        assert!(
            image.starts_with("<?xml") && image.trim_end().ends_with("</svg>"),
            "{image}"
        );
        let colors = encode("anna").unwrap().to_colors();
        let dark = colors.iter().filter(|color| **color == Color::Dark);
        assert_eq!(image.matches('M').count(), dark.count(), "{image}");
        assert!(svg(&"x".repeat(3000)).is_err());
    }
}
