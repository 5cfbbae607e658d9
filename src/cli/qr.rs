//! A QR code in a terminal: two modules in each character, one above the other.

use console::Term;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use std::io::{self, IsTerminal};
use vcgate::operate::qr::encode;

/// White on black, whatever the terminal's own colours are.
const WHITE_ON_BLACK: &str = "\x1b[38;5;231;48;5;16m";
const PLAIN: &str = "\x1b[0m";

/// Renders the code for `text`, in colours if stdout is a terminal.
///
/// # Errors
/// If the text is too long, or the code is wider than the terminal.
pub(super) fn render(text: &str) -> anyhow::Result<String> {
    let modules = blocks(&encode(text)?);
    let (start, end) = match io::stdout().is_terminal() {
        true => (WHITE_ON_BLACK, PLAIN),
        false => ("", ""),
    };
    // `None` if stdout is not a terminal.
    let columns = Term::stdout().size_checked().map(|(_, columns)| columns);
    fits(&modules, columns)?;
    let lines = modules.lines().map(|line| format!("{start}{line}{end}\n"));
    Ok(lines.collect())
}

/// Checks the width: a code that wraps cannot be scanned.
fn fits(modules: &str, columns: Option<u16>) -> anyhow::Result<()> {
    let height = modules.lines().count();
    let width = modules
        .lines()
        .next()
        .map_or(0, |line| line.chars().count());
    match columns.map(usize::from).filter(|columns| *columns < width) {
        None => Ok(()),
        Some(columns) => anyhow::bail!(
            "cannot show the code: it is {width} columns wide and {height} lines high, the terminal \
             has {columns} columns; make it wider, or its letters smaller"
        ),
    }
}

/// Draws light modules as blocks and dark ones as background, for a dark terminal.
fn blocks(code: &QrCode) -> String {
    code.render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use qrcode::{Color, EcLevel};

    #[test]
    fn blocks_are_the_modules() {
        /// The light border that the standard requires (ISO/IEC 18004, 9.1), in modules.
        const QUIET: usize = 4;
        let code = QrCode::with_error_correction_level("[Interface]\n", EcLevel::L).unwrap();
        let text = blocks(&code);
        let mut rows: Vec<Vec<Color>> = Vec::new();
        for line in text.lines() {
            let halves = line.chars().map(|block| match block {
                '█' => (Color::Light, Color::Light),
                '▀' => (Color::Light, Color::Dark),
                '▄' => (Color::Dark, Color::Light),
                ' ' => (Color::Dark, Color::Dark),
                other => panic!("{other:?}"),
            });
            let (upper, lower) = halves.unzip();
            rows.push(upper);
            rows.push(lower);
        }
        let width = code.width();
        for row in &rows[..QUIET] {
            assert_eq!(*row, vec![Color::Light; width + 2 * QUIET]);
        }
        let inner = rows[QUIET..QUIET + width].iter();
        let seen: Vec<Color> = inner
            .flat_map(|row| row[QUIET..QUIET + width].to_vec())
            .collect();
        assert_eq!(seen, code.to_colors());
    }

    #[test]
    fn a_code_must_fit() {
        let modules = "█▀▄ \n█▀▄ \n";
        for columns in [None, Some(4), Some(5)] {
            assert!(fits(modules, columns).is_ok());
        }
        let error = fits(modules, Some(3)).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot show the code: it is 4 columns wide and 2 lines high, "),
            "{error}"
        );
    }

    #[test]
    fn too_much_is_an_error() {
        let error = render(&"a".repeat(3000)).unwrap_err();
        assert_eq!(error.to_string(), "it is too long for a QR code");
    }
}
