//! A serde format for the Python literals that an `.npy` header may hold: reads and writes them.
//!
//! NumPy reads a header with `ast.literal_eval`; what it can hold is a dict of strings, booleans, integers,
//! tuples and lists. This module reads exactly those into any type that derives [`serde::Deserialize`],
//! with the lexical freedom that Python allows: both quotes, string prefixes and escapes, implicit
//! concatenation, underscores and bases in integers, comments, trailing commas, and the `L` behind an integer
//! that Python 2 wrote.
//!
//! serde knows no difference between a tuple and a list, and Python does. Two conventions bridge that: a
//! newtype struct named [`TUPLE`] holds a sequence that is written with parentheses, and [`Literal`] is an
//! enum whose variant follows from the first character.

mod parse;
mod value;
mod write;

pub use parse::from_str;
pub use value::{Error, Literal, TUPLE};
pub use write::to_string;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Literal<'_>, Error> {
        from_str(text, false)
    }

    #[test]
    fn reads_what_python_reads() {
        let str = |text: &'static str| Literal::Str(text.into());
        for (text, value) in [
            ("'a'", str("a")),
            (" \"a'\" # comment", str("a'")),
            ("u'a' \t'b'\n", str("ab")),
            (r"r'\n'", str("\\n")),
            (r"'\x41\102\u00e9\U0001f600\\\'\n\q'", str("AB\u{e9}\u{1f600}\\'\n\\q")),
            ("'\\\n'", str("")),
            ("0x1F", Literal::Int(31)),
            ("1_000", Literal::Int(1000)),
            ("000", Literal::Int(0)),
            ("- 3", Literal::Int(-3)),
            ("(1,)", Literal::Tuple(vec![Literal::Int(1)])),
            ("()", Literal::Tuple(vec![])),
            ("[1, (2, 3), ]", {
                let pair = Literal::Tuple(vec![Literal::Int(2), Literal::Int(3)]);
                Literal::List(vec![Literal::Int(1), pair])
            }),
        ] {
            assert_eq!(read(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refuses_what_python_refuses() {
        for text in [
            "",
            "'",
            "'a",
            "'a\n'",
            "'a' b",
            "b'a'",
            "f'a'",
            "'\\x4'",
            "'\\ud800'",
            "'\\N{DASH}'",
            "(1)",
            "(1",
            "(,)",
            "[1,,2]",
            "[1 2]",
            "1 2",
            "007",
            "1__0",
            "1_",
            "_1",
            "0x",
            "1.5",
            "1e3",
            "1L",
            "True",
            "None",
            "{}",
            "{1}",
            "--",
            "+",
            "x",
            "[1)",
            "'a\0'",
            "\0",
            "(1,)(2,)",
            "r'\\",
        ] {
            assert!(read(text).is_err(), "{text:?}: {:?}", read(text));
        }
    }

    #[test]
    fn python_2_integers_only_where_allowed() {
        assert_eq!(
            from_str("(10L, 0L,2 L)", true),
            Ok(Literal::Tuple([10, 0, 2].map(Literal::Int).to_vec()))
        );
        assert!(from_str::<Literal<'_>>("10L", false).is_err());
        assert!(from_str::<Literal<'_>>("10LL", true).is_err());
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let text = "[".repeat(100_000);
        assert_eq!(read(&text), Err(Error::Depth));
        let text = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(read(&text).is_ok());
    }

    #[test]
    fn numbers_out_of_range_are_errors() {
        assert_eq!(read("9223372036854775807"), Ok(Literal::Int(i64::MAX)));
        for text in ["9223372036854775808", "-9223372036854775808", "99999999999999999999999"] {
            assert!(matches!(read(text), Err(Error::Range { .. })), "{text}");
        }
    }

    fn literals() -> impl Strategy<Value = Literal<'static>> {
        let leaf = prop_oneof![
            any::<String>().prop_filter("NUL", |s| !s.contains('\0')).prop_map(|s| Literal::Str(s.into())),
            (-i64::MAX..).prop_map(Literal::Int),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let items = prop::collection::vec(inner, 0..4);
            prop_oneof![items.clone().prop_map(Literal::Tuple), items.prop_map(Literal::List)]
        })
    }

    proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same(literal in literals()) {
            let text = to_string(&literal).unwrap();
            prop_assert_eq!(read(&text), Ok(literal));
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = read(&text);
        }
    }
}
