//! The QR code of a text, as an image.

use qrcode::render::svg;
use qrcode::{Color, EcLevel, QrCode};

/// The minimum width and height of an image in pixels.
const MIN_IMAGE_SIZE: u32 = 400;
/// The light border that the standard requires (ISO/IEC 18004, 9.1), in modules.
const QUIET_ZONE: usize = 4;

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

/// Renders the code for `text` as a PNG image in black and white.
///
/// # Errors
/// If the text is too long.
pub fn png(text: &str) -> Result<Vec<u8>, TooLong> {
    let code = encode(text)?;
    let modules = code.width() + 2 * QUIET_ZONE;
    let scale = (MIN_IMAGE_SIZE as usize).div_ceil(modules);
    let size = modules * scale;
    let colors = code.to_colors();
    let is_dark = |x: usize, y: usize| {
        let inside = |at: usize| {
            (at / scale)
                .checked_sub(QUIET_ZONE)
                .filter(|at| *at < code.width())
        };
        let at = inside(x).zip(inside(y));
        at.is_some_and(|(x, y)| colors[y * code.width() + x] == Color::Dark)
    };
    // One bit for each pixel, 1 is white; each row begins with a new byte.
    let row_bytes = size.div_ceil(8);
    let mut pixels = vec![0; row_bytes * size];
    for y in 0..size {
        for x in (0..size).filter(|x| !is_dark(*x, y)) {
            pixels[y * row_bytes + x / 8] |= 0x80 >> (x % 8);
        }
    }
    let mut image = Vec::new();
    // A code has at most 177 modules, so the size fits.
    let mut encoder = png::Encoder::new(&mut image, size as u32, size as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let written = encoder.write_header();
    // Writing to memory fails only if the pixels do not fit the size.
    let written = written.and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|_| TooLong)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each module of the decoded image is a square of the scale.
    #[test]
    fn a_png_image_has_the_modules_of_the_code() {
        let image = png("anna").unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(image));
        reader.set_transformations(::png::Transformations::EXPAND);
        let mut reader = reader.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let size = reader.next_frame(&mut pixels).unwrap().width as usize;
        let code = encode("anna").unwrap();
        let modules = code.width() + 2 * QUIET_ZONE;
        assert!(
            size >= MIN_IMAGE_SIZE as usize && size.is_multiple_of(modules),
            "{size}"
        );
        let (scale, colors) = (size / modules, code.to_colors());
        for (at, pixel) in pixels.iter().enumerate() {
            let (x, y) = (at % size / scale, at / size / scale);
            let inside = |at: usize| at.checked_sub(QUIET_ZONE).filter(|at| *at < code.width());
            let color = inside(x)
                .zip(inside(y))
                .map(|(x, y)| colors[y * code.width() + x]);
            assert_eq!(*pixel == 0, color == Some(Color::Dark), "{x} {y}");
        }
        assert!(png(&"x".repeat(3000)).is_err());
    }

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
