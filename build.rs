//! Copies the shaders without their comments and indentation: in the browser every byte is downloaded. Template lines (`//#`) stay.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=shaders");
    let out = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("shaders");
    for folder in ["", "lib"] {
        fs::create_dir_all(out.join(folder))?;
        for entry in fs::read_dir(Path::new("shaders").join(folder))? {
            let path = entry?.path();
            if let (Some(name), true) = (path.file_name(), path.is_file()) {
                fs::write(out.join(folder).join(name), without_comments(&fs::read_to_string(&path)?))?;
            }
        }
    }
    Ok(())
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.find("//") {
        Some(at) if !line[at..].starts_with("//#") => line[..at].trim_end().to_string(),
        _ => line.to_string(),
    };
    let lines: Vec<String> = text.lines().map(str::trim).map(code).filter(|line| !line.is_empty()).collect();
    lines.join("\n") + "\n"
}
