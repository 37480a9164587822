//! The help texts of the programs on terminals.

mod support;

use std::process::Command;

use support::{CHAT, ECHO, NC};

const PROGRAMS: [&str; 3] = [ECHO, CHAT, NC];

/// Returns the help that a program prints on a terminal with this many columns.
fn help(program: &str, option: &str, columns: usize) -> String {
    let mut command = Command::new(program);
    let output = command.arg(option).env("COLUMNS", columns.to_string()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn help_fits_a_terminal_of_80_columns_with_whole_words() {
    for program in PROGRAMS {
        for option in ["-h", "--help"] {
            let text = help(program, option, 80);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{program} {option}: {line}");
            }
            // A word that was cut would count as two.
            assert_eq!(words(&text), words(&help(program, option, 100)), "{program} {option}");
        }
    }
}

#[test]
fn help_fits_the_terminal_that_it_is_printed_on() {
    for program in PROGRAMS {
        // script(1) makes the terminal.
        let command = format!("stty cols 80 rows 24; unset COLUMNS; export NO_COLOR=1; {program} -h");
        let output = Command::new("script").args(["-qec", &command, "/dev/null"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage: peeloff-"), "{text}");
        let text = text.replace('\r', "");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{program}: {line:?}");
        }
        assert_eq!(words(&text), words(&help(program, "-h", 80)), "{program}");
    }
}

#[test]
fn help_is_no_wider_than_100_columns_on_a_wide_terminal() {
    for program in PROGRAMS {
        for line in help(program, "--help", 300).lines() {
            assert!(line.chars().count() <= 100, "{program}: {line}");
        }
    }
}

#[test]
fn options_are_grouped_by_subject() {
    for program in [ECHO, CHAT] {
        let text = help(program, "-h", 80);
        let headings: Vec<&str> =
            text.lines().filter(|line| !line.starts_with(' ') && line.ends_with(':')).collect();
        for subject in ["Listening:", "Identity:", "Limits:", "SCTP:", "Logging:", "Configuration:"] {
            assert!(headings.contains(&subject), "{subject} is not in {headings:?}");
        }
        // Only the options for help and the version have no subject.
        let rest = text.split_once("\nOptions:\n").unwrap().1;
        let group = rest.split("\n\n").next().unwrap();
        assert_eq!(group.lines().count(), 2, "{group}");
    }
}

#[test]
fn long_help_ends_with_examples_that_run_the_program() {
    for program in PROGRAMS {
        let name = program.rsplit('/').next().unwrap();
        let text = help(program, "--help", 80);
        let examples = text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{text}")).1;
        assert!(examples.lines().filter(|line| line.contains(name)).count() >= 3, "{examples}");
        assert!(!help(program, "-h", 80).contains("Examples:"));
    }
}
