//! The shaders' template: constants and unrolling, in WGSL comments, so that a shader file stays one readable text.
//!
//! - `{NAME}`: the value of a variable.
//! - `//#for i in 0..N` .. `//#end`: the lines between, once for each value of `{i}`; N is a number or a variable, whose name
//!   may hold variables of the loops around it.
//! - `//#if NAME == value` .. `//#end`: the lines between, only if NAME has that value.
//! - `//#include "lib/file.wgsl"`: a file of `shaders/lib/`, expanded alike.

use crate::{Error, Result};

/// Names and their values.
pub type Variables = Vec<(&'static str, String)>;

/// The shared pieces by the name under which shaders include them.
const LIBRARY: &[(&str, &str)] = &[
    ("lib/activation.wgsl", include_str!(concat!(env!("OUT_DIR"), "/shaders/lib/activation.wgsl"))),
    ("lib/pack.wgsl", include_str!(concat!(env!("OUT_DIR"), "/shaders/lib/pack.wgsl"))),
    ("lib/position.wgsl", include_str!(concat!(env!("OUT_DIR"), "/shaders/lib/position.wgsl"))),
];

/// Expands a shader.
///
/// # Errors
/// `INTERNAL` with the line that is wrong: an unknown name or directive, or an `end` missing.
pub fn expand(source: &str, variables: &Variables) -> Result<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut scope: Vec<(String, String)> = variables.iter().map(|(n, v)| (n.to_string(), v.clone())).collect();
    let mut out = String::with_capacity(source.len() * 2);
    expand_lines(&lines, 0, &mut scope, &mut out)?;
    Ok(out)
}

fn expand_lines(lines: &[&str], first: usize, scope: &mut Vec<(String, String)>, out: &mut String) -> Result<()> {
    let mut i = 0;
    while i < lines.len() {
        let fail = |what: &str| Error::internal(format!("shader template, line {}: {what}", first + i + 1));
        let Some(directive) = lines[i].trim().strip_prefix("//#") else {
            substitute(lines[i], scope, out).map_err(|name| fail(&format!("unknown variable \"{name}\"")))?;
            i += 1;
            continue;
        };
        let words: Vec<&str> = directive.split_whitespace().collect();
        match words.as_slice() {
            ["include", name] => {
                let name = name.trim_matches('"');
                let text = LIBRARY.iter().find(|(n, _)| *n == name).ok_or_else(|| fail("unknown include"))?.1;
                expand_lines(&text.lines().collect::<Vec<_>>(), 0, scope, out)?;
                i += 1;
            }
            ["for", name, "in", range] => {
                let end = block_end(lines, i).ok_or_else(|| fail("for without end"))?;
                let bound = range.strip_prefix("0..").ok_or_else(|| fail("a range starts at 0"))?;
                let mut name_of_bound = String::new();
                substitute(bound, scope, &mut name_of_bound)
                    .map_err(|name| fail(&format!("unknown variable \"{name}\"")))?;
                let bound = name_of_bound.trim_end();
                let count: usize =
                    lookup(scope, bound).unwrap_or(bound).parse().map_err(|_| fail("the range's end is no number"))?;
                for value in 0..count {
                    scope.push((name.to_string(), value.to_string()));
                    expand_lines(&lines[i + 1..end], first + i + 1, scope, out)?;
                    scope.pop();
                }
                i = end + 1;
            }
            ["if", name, "==", value] => {
                let end = block_end(lines, i).ok_or_else(|| fail("if without end"))?;
                let found = lookup(scope, name).ok_or_else(|| fail("unknown variable"))?;
                if found == *value {
                    expand_lines(&lines[i + 1..end], first + i + 1, scope, out)?;
                }
                i = end + 1;
            }
            _ => return Err(fail("unknown directive")),
        }
    }
    Ok(())
}

/// The line of the `end` that closes the block opened at `start`.
fn block_end(lines: &[&str], start: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, line) in lines.iter().enumerate().skip(start) {
        match line.trim().strip_prefix("//#").and_then(|d| d.split_whitespace().next()) {
            Some("for" | "if") => depth += 1,
            Some("end") => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

fn lookup<'a>(scope: &'a [(String, String)], name: &str) -> Option<&'a str> {
    scope.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// Appends a line with every `{name}` replaced; braces around anything but a name are WGSL's own.
fn substitute(line: &str, scope: &[(String, String)], out: &mut String) -> std::result::Result<(), String> {
    let mut rest = line;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let after = &rest[open + 1..];
        let name_length = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if name_length > 0 && after[name_length..].starts_with('}') {
            let name = &after[..name_length];
            out.push_str(lookup(scope, name).ok_or(name)?);
            rest = &after[name_length + 1..];
        } else {
            out.push('{');
            rest = after;
        }
    }
    out.push_str(rest);
    out.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrolls_chooses_and_substitutes() {
        let source =
            "//#for r in 0..ROWS\nlet a_{r} = {r}u; if (x) { y(); }\n//#if r == 1\nlast({KIND})\n//#end\n//#end\n";
        let text = expand(source, &vec![("ROWS", "2".into()), ("KIND", "q8".into())]).unwrap();
        assert_eq!(text, "let a_0 = 0u; if (x) { y(); }\nlet a_1 = 1u; if (x) { y(); }\nlast(q8)\n");
    }

    #[test]
    fn an_inner_loop_is_as_long_as_the_outer_says() {
        let source = "//#for g in 0..2\n//#for l in 0..N_{g}\n{g}{l}\n//#end\n//#end\n";
        let text = expand(source, &vec![("N_0", "2".into()), ("N_1", "1".into())]).unwrap();
        assert_eq!(text, "00\n01\n10\n");
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        for (source, line) in [("a\n{NOPE}\n", 2), ("//#for i in 0..2\nx\n", 1), ("a\nb\n//#els\n", 3)] {
            let error = expand(source, &vec![]).unwrap_err();
            assert!(error.cause.contains(&format!("line {line}:")), "{error}");
        }
    }
}
