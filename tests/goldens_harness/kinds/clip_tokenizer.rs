//! CLIP's tokenizer: the ids of every text, and both ways to fill them up.

use crate::goldens_harness::{Case, Report, Stop};
use serde_json::Value;
use std::io::Read;
use uvit_web::text::Tokenizer;

/// Of CLIP's vocabulary: 49408 ids without the 512 of bytes and the two special ones.
const MERGES: usize = 49408 - 512 - 2;

/// CLIP's merges.
pub fn merges(case: &Case) -> Result<String, String> {
    let vocabulary = case.config["vocab_file"].as_str().ok_or("no vocab_file")?;
    let file = std::fs::File::open(case.folder.join(vocabulary)).map_err(|e| format!("{vocabulary}: {e}"))?;
    let mut merges = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut merges).map_err(|e| format!("{vocabulary}: {e}"))?;
    // The file goes on behind what CLIP took of it.
    Ok(merges.split_inclusive('\n').take(1 + MERGES).collect())
}

/// One run a text.
pub fn judge(case: &Case, report: &mut Report) {
    let read = || -> Result<(Tokenizer, Vec<Value>), String> {
        let cases = std::fs::read(case.folder.join("cases.json")).map_err(|e| format!("cases.json: {e}"))?;
        let cases = serde_json::from_slice(&cases).map_err(|e| format!("cases.json: {e}"))?;
        Ok((Tokenizer::new(&merges(case)?).map_err(|e| e.to_string())?, cases))
    };
    let (tokenizer, cases) = match read() {
        Ok(read) => read,
        Err(why) => return report.fail("", &why),
    };
    let number = |name: &str| case.config[name].as_u64().unwrap_or(0) as u32;
    let length = number("max_length") as usize;
    for (i, text) in cases.iter().enumerate() {
        report.run(&format!("text {i}"), "host", |checks| {
            let words = text["text"].as_str().ok_or_else(|| "no text".to_owned())?;
            let encoded = tokenizer.encode(words, length, &number("pad_hf").into());
            let row = |name: &str| -> Result<Vec<u32>, Stop> {
                Ok(case.tensor(name)?.rows()[i].iter().map(|v| *v as u32).collect())
            };
            let want = row("input_ids")?;
            checks.that(encoded.ids == want, || format!("{words:?} is {:?}, not {want:?}", encoded.ids));
            let listed: Vec<u64> = text["ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            checks.that(encoded.left_out.is_none() || listed.len() == length, || format!("{:?}", encoded.left_out));
            if text["same"].as_bool() == Some(true) {
                let want = row("input_ids_openai")?;
                let got = tokenizer.encode(words, length, &number("pad_openai").into()).ids;
                checks.that(got == want, || format!("{words:?} filled up is {got:?}, not {want:?}"));
            }
            Ok(())
        });
    }
}
