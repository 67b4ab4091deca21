//! `.env` files: `NAME=value` lines, `export` allowed, `#` comments, single quotes for literal text, double quotes with
//! `\n`, `\t`, `\"`, `\\`. No interpolation: what a file says is what the server gets.

/// The pairs of a file in order, or the first line that is not one (1-based).
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut pairs = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(index + 1)?;
        let name = name.trim();
        let valid = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !valid {
            return Err(index + 1);
        }
        pairs.push((name.to_owned(), unquote(value.trim()).ok_or(index + 1)?));
    }
    Ok(pairs)
}

fn unquote(value: &str) -> Option<String> {
    let mut chars = value.chars();
    match chars.next() {
        Some('\'') => {
            let (inner, rest) = chars.as_str().split_once('\'')?;
            is_comment(rest).then(|| inner.to_owned())
        }
        Some('"') => {
            let mut text = String::new();
            loop {
                match chars.next()? {
                    '"' => return is_comment(chars.as_str()).then_some(text),
                    '\\' => text.push(match chars.next()? {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    }),
                    other => text.push(other),
                }
            }
        }
        // A comment needs white space before it, so that URLs keep their fragments.
        _ => {
            let end = value
                .char_indices()
                .find(|&(at, char)| char == '#' && value[..at].ends_with(char::is_whitespace))
                .map_or(value.len(), |(at, _)| at);
            Some(value[..end].trim_end().to_owned())
        }
    }
}

fn is_comment(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.is_empty() || rest.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_shells_and_people_write_them() {
        let cases = [
            ("A=1", Ok(vec![("A", "1")])),
            (
                "# c\n\n export A = x y \r\nB=",
                Ok(vec![("A", "x y"), ("B", "")]),
            ),
            ("A=x # c", Ok(vec![("A", "x")])),
            ("A=http://h/#f", Ok(vec![("A", "http://h/#f")])),
            ("A='#$ \\n' # c", Ok(vec![("A", "#$ \\n")])),
            (r#"A="a\n\"b\" # \\""#, Ok(vec![("A", "a\n\"b\" # \\")])),
            ("A='['\"", Err(1)),
            ("A=\"x", Err(1)),
            ("A=1\nnonsense", Err(2)),
            ("=1", Err(1)),
            ("A B=1", Err(1)),
            ("\u{feff}A=ü", Ok(vec![("A", "ü")])),
        ];
        for (text, expected) in cases {
            let owned = |pairs: Vec<(&str, &str)>| -> Vec<(String, String)> {
                pairs
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect()
            };
            assert_eq!(parse(text), expected.map(owned), "{text:?}");
        }
    }
}
