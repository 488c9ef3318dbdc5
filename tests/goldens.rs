//! Compares this library with what reference implementations computed (`tests/goldens`, or the folder named by
//! `UVIT_GOLDENS`). An argument keeps the runs whose name (`case/run [executor]`) contains it. The last line is
//! `N passed, N failed, N skipped`; the exit code is 1 if anything failed or nothing passed.
//!
//! A new kind takes one file in `goldens_harness/kinds/` and one line in [`KINDS`]; a new device takes
//! one line in `goldens_harness::recipes::backends`.

mod goldens_harness;

use goldens_harness::kinds;
use goldens_harness::{Case, Report};
use std::path::PathBuf;
use std::process::ExitCode;

/// Judges all runs of one case.
type Judge = fn(&Case, &mut Report);

/// How each `kind` of `config.json` is judged.
const KINDS: &[(&str, Judge)] = &[
    ("autoencoder_kl", kinds::autoencoder::judge),
    ("autoencoder_kl_diffusers", kinds::autoencoder::judge),
    ("autoencoder_tiny", kinds::autoencoder::judge),
    ("caption_decoder", kinds::caption_decoder::judge),
    ("clip_text", kinds::network::judge),
    ("clip_vision", kinds::network::judge),
    ("clip_tokenizer", kinds::clip_tokenizer::judge),
    ("dit", kinds::network::judge),
    ("end_to_end", kinds::end_to_end::judge),
    ("end_to_end_sd3", kinds::end_to_end_sd3::judge),
    ("end_to_end_dit", kinds::end_to_end_dit::judge),
    ("guidance", kinds::guidance::judge),
    ("img2img_inpaint", kinds::img2img_inpaint::judge),
    ("latte", kinds::network::judge),
    ("mmdit", kinds::network::judge),
    ("sampler_diffusers", kinds::diffusers::judge),
    ("sampler_dpm_solver", kinds::dpm_solver::judge),
    ("sampler_dpm_solver_pp", kinds::dpm_solver::judge),
    ("sampler_euler_maruyama", kinds::euler_maruyama::judge),
    ("sampler_vp_dpmpp2m", kinds::vp_dpmpp2m::judge),
    ("sd3_prompt", kinds::sd3_prompt::judge),
    ("torch_randn", kinds::torch_randn::judge),
    ("unidiffuser", kinds::network::judge),
    ("uvit", kinds::network::judge),
    ("uvit_t2i", kinds::network::judge),
    ("uvit_video", kinds::network::judge),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filter = arguments.into_iter().find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let folder = std::env::var_os("UVIT_GOLDENS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"), PathBuf::from);

    let mut report = Report::new(filter);
    match Case::find_all(&folder) {
        Err(why) => report.fail("goldens", &why),
        Ok(found) if found.is_empty() => {
            report.fail("goldens", &format!("no case (a folder with config.json) in {}", folder.display()));
        }
        Ok(found) => found.iter().for_each(|(name, path)| judge(name, path, &mut report)),
    }
    goldens_harness::devices::close();
    report.finish()
}

fn judge(name: &str, path: &std::path::Path, report: &mut Report) {
    report.begin_case(name);
    let case = match Case::read(path) {
        Ok(case) => case,
        Err(why) => return report.fail("", &why),
    };
    match KINDS.iter().find(|(kind, _)| *kind == case.kind) {
        None => report.skip("", &format!("the kind {} is not judged yet", case.kind)),
        Some((_, judge)) => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&case, report)));
            if outcome.is_err() {
                report.fail("", "panicked");
            }
        }
    }
    report.end_case();
}
