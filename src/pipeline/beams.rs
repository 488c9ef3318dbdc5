//! Beam search over the tokens of one caption, as UniDiffuser's `generate_beam` does it (`libs/caption_decoder.py` of
//! thu-ml/unidiffuser at 845e14f7939fb28a7f8d879ff18b7c9e09c7434b): the beams of the best average log-probability a token go on. With
//! one beam that is greedy search. Ties go to the lower beam, then to the lower token.

/// A caption so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beam {
    /// Its tokens, the one that stops it included.
    pub tokens: Vec<u32>,
    /// Whether it has come to an end by itself.
    pub stopped: bool,
    /// The sum of the log-probabilities of its tokens.
    score: f64,
    /// The rows of the cache that hold its tokens' keys and values.
    pub(super) rows: Vec<u32>,
}

impl Beam {
    fn average(&self) -> f64 {
        self.score / self.tokens.len().max(1) as f64
    }
}

/// A search.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// As many as were asked for, once there is a token.
    pub beams: Vec<Beam>,
    width: usize,
    stop: u32,
}

/// A beam and what it may go on with: the new average, the token, the beam's position.
struct Next {
    average: f64,
    token: u32,
    of: usize,
}

impl Next {
    fn is_before(&self, other: &Next) -> bool {
        let order = other.average.total_cmp(&self.average);
        order.is_lt() || order.is_eq() && (self.of, self.token) < (other.of, other.token)
    }
}

impl Search {
    /// Of so many beams that end with the token `stop`; before the first token there is one.
    pub fn new(width: usize, stop: u32) -> Search {
        Search { beams: vec![Beam::default()], width, stop }
    }

    /// Whether all beams have stopped.
    pub fn is_over(&self) -> bool {
        self.beams.iter().all(|beam| beam.stopped)
    }

    /// One token more: `logits [beams, vocabulary]`, all finite.
    pub fn step(&mut self, logits: &[f32]) {
        let vocabulary = logits.len() / self.beams.len();
        let mut all: Vec<Next> = Vec::with_capacity(self.width * self.beams.len());
        for (of, (beam, logits)) in self.beams.iter().zip(logits.chunks_exact(vocabulary)).enumerate() {
            if beam.stopped {
                // The only one of its continuations that is possible: nothing.
                all.push(Next { average: beam.average(), token: 0, of });
                continue;
            }
            let best = largest(logits, self.width);
            let total = if self.width == 1 { 0.0 } else { log_sum_exp(logits, best.first().map_or(0.0, |&(v, _)| v)) };
            let length = (beam.tokens.len() + 1) as f64;
            let next = |&(logit, token): &(f32, u32)| {
                let average = (beam.score + (f64::from(logit) - total)) / length;
                Next { average, token, of }
            };
            all.extend(best.iter().map(next));
        }
        let mut taken = Vec::with_capacity(self.width);
        while taken.len() < self.width && !all.is_empty() {
            let mut first = 0;
            for at in 1..all.len() {
                if all[at].is_before(&all[first]) {
                    first = at;
                }
            }
            let next = all.swap_remove(first);
            let mut beam = self.beams[next.of].clone();
            if !beam.stopped {
                beam.tokens.push(next.token);
                beam.stopped = next.token == self.stop;
            }
            beam.score = next.average * beam.tokens.len() as f64;
            taken.push(beam);
        }
        self.beams = taken;
    }

    /// The best beam.
    pub fn best(&self) -> &Beam {
        // The first of equals.
        self.beams[1..]
            .iter()
            .fold(&self.beams[0], |best, beam| if beam.average() > best.average() { beam } else { best })
    }

    /// All beams, the best first.
    pub fn ranked(mut self) -> Vec<Beam> {
        self.beams.sort_by(|a, b| b.average().total_cmp(&a.average()));
        self.beams
    }
}

/// The `count` largest logits with their tokens, the largest first, of equal ones the first.
fn largest(logits: &[f32], count: usize) -> Vec<(f32, u32)> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for (token, &logit) in logits.iter().enumerate() {
        if best.len() < count || logit > least {
            let at = best.iter().position(|&(other, _)| other < logit).unwrap_or(best.len());
            best.insert(at, (logit, token as u32));
            best.truncate(count);
            least = best[best.len() - 1].0;
        }
    }
    best
}

/// What is taken off logits to make log-probabilities of them; in f64, as the averages are.
fn log_sum_exp(logits: &[f32], largest: f32) -> f64 {
    /// What is left out is, all together, less than what is rounded.
    const NOTHING: f64 = -60.0;
    let difference = |&logit: &f32| f64::from(logit) - f64::from(largest);
    let sum: f64 = logits.iter().map(difference).filter(|&d| d > NOTHING).map(f64::exp).sum();
    f64::from(largest) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest_until_it_stops() {
        let mut search = Search::new(1, 3);
        search.step(&[0.5, 2.0, 2.0, -1.0]);
        search.step(&[-3.0, -2.0, -9.0, -2.5]);
        assert!(!search.is_over());
        search.step(&[0.0, 0.0, 0.0, 0.5]);
        assert!(search.is_over());
        assert_eq!(search.best().tokens, [1, 1, 3]);
    }

    #[test]
    fn beams_are_ordered_by_their_average_and_stopped_ones_stay_as_they_are() {
        let logs = |p: [f64; 3]| p.map(|p| p.ln() as f32);
        let mut search = Search::new(2, 2);
        search.step(&logs([0.5, 0.1, 0.4]));
        assert_eq!(search.beams.iter().map(|beam| beam.tokens.clone()).collect::<Vec<_>>(), [[0], [2]]);
        assert!(search.beams[1].stopped && !search.is_over());
        // Two tokens of 0.5 and 0.7 are better on the average than the stopped one of 0.4, which is better than 0.5 and 0.2.
        let step = [logs([0.7, 0.2, 0.1]), logs([1.0, 0.1, 0.1])].concat();
        search.step(&step);
        let tokens = |search: &Search| search.beams.iter().map(|beam| beam.tokens.clone()).collect::<Vec<_>>();
        assert_eq!(tokens(&search), [vec![0, 0], vec![2]]);
        assert!((search.beams[1].score - 0.4f64.ln()).abs() < 1e-6);
        // Both come to nothing beside it.
        search.step(&[logs([0.01, 0.98, 0.01]), logs([0.2, 0.7, 0.1])].concat());
        assert_eq!(tokens(&search), [vec![0, 0, 1], vec![2]]);
        assert_eq!(search.best().tokens, [0, 0, 1]);
        assert_eq!(search.ranked().iter().map(|beam| beam.tokens.len()).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn log_probabilities_add_up_to_one_whatever_the_logits() {
        for logits in [vec![0.0f32; 50257], vec![3e4, -3e4, 3e4], vec![-1e30, 1e30], vec![7.5]] {
            let first = largest(&logits, 1)[0].0;
            let total = log_sum_exp(&logits, first);
            let sum: f64 = logits.iter().map(|&v| (f64::from(v) - total).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-11, "{sum}");
        }
        assert_eq!(largest(&[1.0, 4.0, 4.0, 2.0, 4.0], 3), [(4.0, 1), (4.0, 2), (4.0, 4)]);
        assert_eq!(largest(&[1.0, 2.0], 5), [(2.0, 1), (1.0, 0)]);
    }
}
