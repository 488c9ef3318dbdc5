//! What a model makes, and which networks that takes.

use super::manifest::{DENOISER, Manifest};
use crate::json::{self, Value};
use crate::{Code, Error, Result};

/// What a model makes. Starting from a picture, or filling in a part of one, is a request's business: every task can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Pictures of a class, or of no class if the network has none.
    Class,
    /// Pictures of a text.
    Text,
    /// Pictures and texts, of each other or of nothing.
    Any,
    /// Texts of a picture.
    Caption,
    /// Videos.
    Video,
}

/// A task's name, the components that it cannot do without, those that it uses if they are there, and the assets that it needs.
struct Row(Task, &'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// From ids to the text's features.
pub const TEXT_ENCODER: &str = "text_encoder";
/// A second one, whose features stand beside those of the first.
pub const TEXT_ENCODER_2: &str = "text_encoder_2";
/// From these to what the denoiser takes, where it takes something else.
pub const TEXT_PROJECTOR: &str = "text_projector";
/// From latents to pictures.
pub const DECODER: &str = "decoder";
/// From pictures to latents. A component of its own: a page that only draws need not load it.
pub const ENCODER: &str = "encoder";
/// From latents to pictures, fast, for previews.
pub const PREVIEW_DECODER: &str = "preview_decoder";
/// From pictures to the embedding that the denoiser takes beside their latents.
pub const IMAGE_ENCODER: &str = "image_encoder";
/// From text latents to the ids of a caption.
pub const CAPTION_DECODER: &str = "caption_decoder";

/// CLIP's merges, one a line after a header.
pub const TOKENIZER: &str = "tokenizer";
/// GPT-2's, where the caption decoder's ids are not those of [`TOKENIZER`].
pub const CAPTION_TOKENIZER: &str = "caption_tokenizer";

/// Without a decoder, what a network in latent space draws stays latents.
#[rustfmt::skip]
const TASKS: [Row; 5] = [
    Row(Task::Class, "class", &[DENOISER], &[DECODER, ENCODER, PREVIEW_DECODER], &[]),
    Row(Task::Text, "text", &[DENOISER, TEXT_ENCODER], &[TEXT_ENCODER_2, TEXT_PROJECTOR, DECODER, ENCODER, PREVIEW_DECODER], &[TOKENIZER]),
    Row(Task::Any, "any", &[DENOISER, TEXT_ENCODER, TEXT_PROJECTOR],
        &[DECODER, ENCODER, PREVIEW_DECODER, IMAGE_ENCODER, CAPTION_DECODER], &[TOKENIZER]),
    Row(Task::Caption, "caption", &[DENOISER, ENCODER, IMAGE_ENCODER, CAPTION_DECODER], &[], &[]),
    Row(Task::Video, "video", &[DENOISER], &[TEXT_ENCODER, TEXT_PROJECTOR, DECODER, ENCODER, PREVIEW_DECODER], &[]),
];

/// The tasks that this build can do; of [`Task::Any`], pictures of a text.
const GENERATED: [Task; 3] = [Task::Class, Task::Text, Task::Any];

/// What every generation may run, in this order.
const STAGES: [&str; 6] = [TEXT_ENCODER, TEXT_ENCODER_2, TEXT_PROJECTOR, DENOISER, PREVIEW_DECODER, DECODER];

/// What only some requests run: those that give a picture, and those that ask for words.
const ON_DEMAND: [&str; 3] = [ENCODER, IMAGE_ENCODER, CAPTION_DECODER];

impl Task {
    fn row(self) -> &'static Row {
        // Every task has one, as the test below says.
        TASKS.iter().find(|row| row.0 == self).unwrap_or(&TASKS[0])
    }

    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The components that it cannot do without.
    pub fn needs(self) -> &'static [&'static str] {
        self.row().2
    }

    /// The assets that it cannot do without.
    pub fn needs_assets(self) -> &'static [&'static str] {
        self.row().4
    }

    /// Whether it has a use for a component.
    pub fn uses(self, component: &str) -> bool {
        self.row().2.contains(&component) || self.row().3.contains(&component)
    }

    /// Refuses tasks that this build does not know: better than what a parser says.
    pub(super) fn check_known(task: Option<&Value>) -> Result<()> {
        let known = |task: &Value| TASKS.iter().any(|row| task == row.1);
        task.filter(|task| !known(task)).map_or(Ok(()), |task| Err(unknown(task)))
    }
}

fn unknown(task: &Value) -> Error {
    let names = TASKS.map(|row| row.1).join(", ");
    let cause = format!("the task is {task}, this build knows {names}");
    Error::new(Code::UnsupportedModel, cause, "Use a version of uvit-web that knows this task")
}

impl std::str::FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Task> {
        TASKS.iter().find(|row| row.1 == name).map(|row| row.0).ok_or_else(|| unknown(&name.into()))
    }
}

impl json::Read for Task {
    fn read(value: &Value) -> json::Result<Task> {
        json::named(value)
    }
}

impl json::Write for Task {
    fn write(&self) -> Value {
        self.as_str().into()
    }
}

impl Manifest {
    /// The components that every generation runs, in order.
    pub fn stages(&self) -> Vec<&'static str> {
        self.having(&STAGES)
    }

    /// Those that only some requests run: they come with the first one.
    pub fn on_demand(&self) -> Vec<&'static str> {
        self.having(&ON_DEMAND)
    }

    /// All that this build runs.
    pub fn runs(&self) -> Vec<&'static str> {
        let mut names = self.stages();
        names.append(&mut self.on_demand());
        names
    }

    /// Whether this build runs a component.
    pub fn has(&self, component: &str) -> bool {
        self.task.uses(component) && self.components.get(component).is_some()
    }

    /// Whether pictures can become latents.
    pub fn encodes(&self) -> bool {
        self.has(ENCODER)
    }

    fn having(&self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.has(name)).collect()
    }

    /// Checks that this build can do the model's task.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL`.
    pub fn check_task(&self) -> Result<()> {
        if GENERATED.contains(&self.task) {
            return Ok(());
        }
        let names = GENERATED.map(Task::as_str).join(", ");
        let cause = format!("the model's task is \"{}\", this build generates {names}", self.task.as_str());
        Err(Error::new(Code::UnsupportedModel, cause, "Use a version of uvit-web that does this task"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Read, Write};

    #[test]
    fn every_task_has_its_row() {
        for Row(task, name, ..) in &TASKS {
            assert_eq!(task.as_str(), *name);
            assert_eq!((task.write(), Task::read(&(*name).into())), ((*name).into(), Ok(*task)));
            assert!(task.needs().contains(&DENOISER), "{name}");
        }
    }
}
