//! The package mirror that this machine uses, read from its own apt configuration.

use std::fs;
use std::path::{Path, PathBuf};

/// The mirror of the Debian archive proper, if the machine has one among its package sources.
pub(super) fn mirror() -> Option<String> {
    let apt = Path::new("/etc/apt");
    let mut files: Vec<PathBuf> = fs::read_dir(apt.join("sources.list.d"))
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.sort();
    files.push(apt.join("sources.list"));
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let stanzas = file.extension().is_some_and(|e| e == "sources");
        if stanzas { uris_of_stanzas(&text) } else { uris_of_lines(&text) }
            .into_iter()
            .find(|uri| is_archive(uri))
            .map(str::to_owned)
    })
}

/// Only the archive itself is called `debian`; its security updates and foreign archives are not.
fn is_archive(uri: &str) -> bool {
    uri.trim_end_matches('/').rsplit('/').next() == Some("debian")
}

/// URIs of `URIs:` fields, the deb822 form.
fn uris_of_stanzas(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case("uris"))
        .flat_map(|(_, uris)| uris.split_whitespace())
        .collect()
}

/// URIs of `deb [options] uri suite component` lines.
fn uris_of_lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("deb "))
        .map(|rest| match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        })
        .filter_map(|rest| rest.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_archive_in_both_forms() {
        let stanzas = "Types: deb\n# URIs: http://no/debian\nURIs: http://a.example/debian-security\n\n\
                       Types: deb\nuris: http://b.example/debian/\nSuites: bookworm\n";
        assert_eq!(
            uris_of_stanzas(stanzas),
            ["http://a.example/debian-security", "http://b.example/debian/"]
        );
        let lines = "# deb http://no/debian x main\ndeb-src http://s.example/debian x main\n\
                     deb [arch=amd64 signed-by=/k] http://c.example/debian bookworm main\ndeb  http://d.example/x y z\n";
        assert_eq!(uris_of_lines(lines), ["http://c.example/debian", "http://d.example/x"]);
        assert!(is_archive("http://b.example/debian/"));
        assert!(is_archive("file:/srv/mirror/debian"));
        assert!(!is_archive("http://a.example/debian-security"));
    }
}
