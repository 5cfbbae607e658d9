//! Splits a shell line into simple commands and words: quotes, escapes, `;`, `&&`, `||`, `|` and
//! redirections. It expands nothing: substitutions stay in their words, and other syntax of the shell
//! becomes a word that is not the name of a command.

/// A simple command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// The text of the command.
    pub text: String,
    /// Program and arguments, without quotes and redirections.
    pub words: Vec<String>,
    /// The files that its output goes to.
    pub written: Vec<String>,
}

/// Returns the commands of a line, in order.
pub(super) fn commands(line: &str) -> Vec<Command> {
    let mut reader = Reader::default();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        reader.read(c, next);
        if c == '\\' && reader.quote != Some('\'') {
            reader.escaped(chars.next());
        }
    }
    reader.end_command();
    reader.commands
}

#[derive(Default)]
struct Reader {
    commands: Vec<Command>,
    command: Command,
    /// The current word; a quoted empty text is a word too.
    word: Option<String>,
    /// The quote that is open.
    quote: Option<char>,
    /// Open parentheses of substitutions.
    depth: usize,
    /// Whether the next word is the file of a redirection.
    is_target: bool,
}

impl Reader {
    fn read(&mut self, c: char, next: Option<char>) {
        match c {
            '\\' if self.quote != Some('\'') => self.command.text.push(c),
            '\'' | '"' if self.quote == Some(c) => self.close(c),
            '\'' | '"' if self.quote.is_none() => self.open(c),
            _ if self.quote.is_some() => self.push(c),
            '(' => {
                self.depth += 1;
                self.push(c);
            }
            ')' => {
                self.depth = self.depth.saturating_sub(1);
                self.push(c);
            }
            _ if self.depth > 0 => self.push(c),
            // 2>&1, &>file
            '&' if next == Some('>') => self.command.text.push(c),
            '&' if self.command.text.ends_with('>') => {
                self.word.get_or_insert_default().push(c);
                self.command.text.push(c);
            }
            ';' | '&' | '|' | '\n' => self.end_command(),
            '>' => {
                let descriptor = self.word.take();
                // Digits before it are a file descriptor.
                if let Some(word) = descriptor.filter(|w| !w.chars().all(|c| c.is_ascii_digit())) {
                    self.command.words.push(word);
                }
                self.is_target = true;
                self.command.text.push(c);
            }
            _ if c.is_whitespace() => {
                self.end_word();
                self.command.text.push(c);
            }
            _ => self.push(c),
        }
    }

    fn escaped(&mut self, c: Option<char>) {
        if let Some(c) = c {
            self.push(c);
        }
    }

    fn open(&mut self, quote: char) {
        self.quote = Some(quote);
        self.word.get_or_insert_default();
        self.command.text.push(quote);
    }

    fn close(&mut self, quote: char) {
        self.quote = None;
        self.command.text.push(quote);
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
        self.command.text.push(c);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        match std::mem::take(&mut self.is_target) {
            // `2>&1` has a descriptor, not a file.
            true if word.starts_with('&') => {}
            true => self.command.written.push(word),
            false => self.command.words.push(word),
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.is_target = false;
        let mut command = std::mem::take(&mut self.command);
        command.text = command.text.trim().to_owned();
        if !command.words.is_empty() || !command.written.is_empty() {
            self.commands.push(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<Vec<String>> {
        let commands = commands(line).into_iter();
        commands.map(|command| command.words).collect()
    }

    #[test]
    fn commands_are_split_as_by_the_shell() {
        for (line, expected) in [
            ("a b;c", &[&["a", "b"][..], &["c"]][..]),
            (
                "a && b || c | d & e",
                &[&["a"], &["b"], &["c"], &["d"], &["e"]],
            ),
            ("a 'b;c' \"d e\" ''", &[&["a", "b;c", "d e", ""]]),
            ("a b\\;c \\\"", &[&["a", "b;c", "\""]]),
            ("a $(b | c; d) e", &[&["a", "$(b | c; d)", "e"]]),
            ("a b 2>/dev/null >> f; c", &[&["a", "b"], &["c"]]),
            ("a 2>&1; b &> f", &[&["a"], &["b"]]),
            ("  ;; ", &[]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        let written = &commands("echo 1 > /proc/x 2>&1")[0].written;
        assert_eq!(written, &["/proc/x"]);
        let text = &commands("a; b 'c d' ;e")[1].text;
        assert_eq!(text, "b 'c d'");
    }

    proptest! {
        /// Without quotes, escapes and redirections every word is found.
        #[test]
        fn no_word_is_lost(words in proptest::collection::vec("[a-z0-9./:-]{1,6}", 1..8)) {
            for separator in [" ", ";", " && ", "|"] {
                let read = commands(&words.join(separator));
                let read: Vec<_> = read.into_iter().flat_map(|command| command.words).collect();
                prop_assert_eq!(&read, &words);
            }
        }

        #[test]
        fn any_text_is_read(text in "([;&|>()'\"\\\\ \n]|\\PC)*") {
            commands(&text);
        }
    }
}
