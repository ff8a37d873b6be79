//! The names that are most like one that is in no archive, for a message.

use mmnpz_format::zip::name::EXTENSION;

/// At most this many names are compared, the first ones of the archive.
const MOST_NAMES: usize = 1000;

/// At most this many bytes of names are compared.
const MOST_BYTES: usize = 20_000;

/// A longer name is not compared: the time that this takes goes with the product of the lengths.
const LONGEST: usize = 100;

/// How alike two names are, from 0 to 1, of which one may be meant for the other.
const ALIKE: f64 = 0.8;

/// Up to `count` names that are most like `name`, the nearest first. Takes a millisecond, however many names
/// there are.
pub fn nearest(name: &str, names: impl Iterator<Item = String>, count: usize) -> Vec<String> {
    // As NumPy has it, a name with the extension is one without.
    let name = name.strip_suffix(EXTENSION).unwrap_or(name);
    if name.len() > LONGEST {
        return Vec::new();
    }
    let mut left = MOST_BYTES;
    let within_budget = |other: &String| {
        left = left.saturating_sub(other.len());
        left > 0
    };
    let mut alike: Vec<(f64, String)> = names
        .take(MOST_NAMES)
        .take_while(within_budget)
        .filter(|other| other.len() <= LONGEST)
        .map(|other| {
            let is_same = name.eq_ignore_ascii_case(&other);
            let likeness = if is_same { 1.0 } else { strsim::jaro_winkler(name, &other) };
            (likeness, other)
        })
        .filter(|&(likeness, _)| likeness >= ALIKE)
        .collect();
    // Of those that are equally alike, the first ones stay first.
    alike.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    alike.into_iter().take(count).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest_of(name: &str, names: &[&str]) -> Vec<String> {
        nearest(name, names.iter().map(|&name| name.to_owned()), 2)
    }

    #[test]
    fn the_nearest_come_first() {
        let names = ["labels", "embed", "weights", "embeddings", "Größe"];
        assert_eq!(nearest_of("embd", &names), ["embed", "embeddings"]);
        assert_eq!(nearest_of("LABELS", &names), ["labels"]);
        assert_eq!(nearest_of("labels.npy", &names), ["labels"]);
        assert_eq!(nearest_of("Grösse", &names), ["Größe"]);
        assert!(nearest_of("x", &names).is_empty());
        assert!(nearest_of("", &names).is_empty());
    }

    #[test]
    fn only_so_many_are_compared() {
        let names = |count: usize, length: usize| {
            let others = (0..count).map(move |number| format!("{number:0length$}"));
            others.chain(["embed".to_owned()])
        };
        assert_eq!(nearest("embd", names(999, 4), 1), ["embed"]);
        assert!(nearest("embd", names(1000, 4), 1).is_empty());
        assert_eq!(nearest("embd", names(10, 1999), 1), ["embed"]);
        assert!(nearest("embd", names(10, 2000), 1).is_empty());
        let long = "e".repeat(LONGEST);
        assert_eq!(nearest_of(&long, &[&long]), [&*long]);
        assert!(nearest_of(&format!("{long}e"), &[&long]).is_empty());
        assert!(nearest_of(&long, &[&format!("{long}e")]).is_empty());
    }
}
