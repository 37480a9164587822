//! Writes the programs' man pages and shell completions, made from their options, for `scripts/package`.
//!
//! `cargo run -p peeloff-servers --example package_files -- FOLDER`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use peeloff_servers::programs::{Chat, Echo, Nc};

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("package_files: name the folder to write the files to");
        return ExitCode::from(2);
    };
    match [Echo::command(), Chat::command(), Nc::command()].into_iter().try_for_each(|it| write(&folder, it))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("package_files: cannot write to {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path, mut command: Command) -> io::Result<()> {
    let name = command.get_name().to_owned();
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, &name, folder)?;
    }
    fs::write(folder.join(format!("{name}.1")), man_page(&command)?)
}

fn man_page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // The synopsis of clap_mangen lists a hundred options.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace('-', "\\-");
    page.extend(format!(".SH SYNOPSIS\n{usage}\n").bytes());
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    // The examples, and the client's exit codes, each under a heading of its own.
    let more = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    for line in more.lines() {
        let text = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        match line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            Some(heading) => page.extend(format!(".fi\n.SH {}\n.nf\n", heading.to_uppercase()).bytes()),
            None => page.extend(format!("{text}\n").bytes()),
        }
    }
    let others = ["peeloff-chat", "peeloff-echo", "peeloff-nc"].into_iter();
    let others: Vec<String> =
        others.filter(|other| *other != command.get_name()).map(|other| format!(".BR {other} (1)")).collect();
    page.extend(format!(".fi\n.SH SEE ALSO\n{}\n", others.join(",\n")).bytes());
    Ok(page)
}
