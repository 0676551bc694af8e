//! Rust sources as text: tokens without comments and strings, and the paths in them.
//!
//! Parses only as much of the grammar as the rules need: macros are not expanded, and names introduced by `as` are not
//! followed.

/// A word or a symbol, and its line.
#[derive(Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) line: usize,
    pub(crate) text: &'a str,
}

/// A path in the code, and its line.
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Words, `::` and single symbols; comments, strings and character literals yield no tokens.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let silent = silent_length(rest, first);
        let length = silent.unwrap_or_else(|| match first {
            _ if is_word(first) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
            _ if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        });
        let (piece, after) = rest.split_at(length);
        if silent.is_none() && !first.is_whitespace() {
            found.push(Token { line, text: piece });
        }
        line += piece.matches('\n').count();
        rest = after;
    }
    found
}

/// Length of the comment, string or character literal that begins here, if any.
fn silent_length(rest: &str, first: char) -> Option<usize> {
    let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r').map(|tail| (tail, tail.trim_start_matches('#')));
    match (first, raw) {
        _ if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
        _ if rest.starts_with("/*") => Some(comment_length(rest)),
        ('b' | 'c' | 'r', Some((tail, body))) if body.starts_with('"') => {
            let close = format!("\"{}", "#".repeat(tail.len() - body.len()));
            let content = body.split_at(1).1;
            Some(rest.len() - content.len() + content.find(&close).map_or(content.len(), |end| end + close.len()))
        }
        ('"', _) => Some(literal_length(rest, '"')),
        ('\'', _) if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') => Some(literal_length(rest, '\'')),
        _ => None,
    }
}

fn literal_length(rest: &str, mark: char) -> usize {
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, letter)| {
        let closes = *letter == mark && !escaped;
        escaped = *letter == '\\' && !escaped;
        closes
    });
    end.map_or(rest.len(), |(at, _)| at + 1)
}

fn comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let tail = rest.split_at(at).1;
        match (tail.find("/*"), tail.find("*/")) {
            (Some(open), Some(close)) if open < close => (depth, at) = (depth + 1, at + open + 2),
            (_, Some(close)) => (depth, at) = (depth - 1, at + close + 2),
            (_, None) => return rest.len(),
        }
        if depth == 0 {
            return at;
        }
    }
}

/// Removes the items under `#[cfg(test)]`; also returns their number of lines.
pub(crate) fn split_tests(mut all: Vec<Token<'_>>) -> (Vec<Token<'_>>, usize) {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut lines = 0;
    while let Some(start) = all.windows(mark.len()).position(|seen| seen.iter().map(|token| token.text).eq(mark)) {
        let mut depth = 0_i32;
        let length = all[start..].iter().skip(mark.len()).position(|token| {
            depth += i32::from(["(", "[", "{"].contains(&token.text));
            depth -= i32::from([")", "]", "}"].contains(&token.text));
            depth <= 0 && [";", "}"].contains(&token.text)
        });
        let end = length.map_or(all.len(), |length| start + mark.len() + length + 1);
        lines += all[end - 1].line - all[start].line + 1;
        all.drain(start..end);
    }
    (all, lines)
}

/// All paths in the code, with `use` trees expanded.
pub(crate) fn paths(code: &[Token<'_>]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = code.get(at) {
        let text = |back: usize| at.checked_sub(back).map_or("", |at| code[at].text);
        let continued = text(1) == "::" && (text(2) == ">" || text(2).chars().all(is_word) && !text(2).is_empty());
        let next = code.get(at + 1).map_or("", |token| token.text);
        at += 1;
        if token.text == "use" && next != "<" {
            use_tree(code, &mut at, &[], &mut found);
        } else if next == "::" && token.text.chars().all(is_word) && !continued {
            let mut path = vec![token.text.to_owned()];
            while let Some([colons, word]) = code.get(at..at + 2)
                && colons.text == "::"
                && word.text.chars().all(is_word)
            {
                path.push(word.text.to_owned());
                at += 2;
            }
            found.push(Named { line: token.line, path });
        }
    }
    found
}

fn use_tree(code: &[Token<'_>], at: &mut usize, prefix: &[String], found: &mut Vec<Named>) {
    let mut path = prefix.to_vec();
    while let Some(token) = code.get(*at) {
        match token.text {
            "{" => {
                while code.get(*at).is_some_and(|token| token.text != "}" && token.text != ";") {
                    *at += 1;
                    use_tree(code, at, &path, found);
                }
                *at += 1;
                return;
            }
            "," | "}" | ";" => {
                if path.len() > prefix.len() {
                    found.push(Named { line: token.line, path });
                }
                return;
            }
            "as" => *at += 1,
            "::" => {}
            word => path.push(word.to_owned()),
        }
        *at += 1;
    }
}
