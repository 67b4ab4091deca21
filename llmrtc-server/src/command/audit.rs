//! `llmrtc audit`: follow the log, and verify it.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use llmrtc_security::audit::{
    AuditKeys, PublicKey,
    verify::{Report, Trust, Verifier},
};
use serde_json::Value;

/// How often a followed file is looked at.
const FOLLOW: Duration = Duration::from_millis(250);
/// Longest line that is shown; records are shorter.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// Arguments of `llmrtc audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    /// Print records as a table.
    Tail(TailArgs),
    /// Check that nothing was edited, deleted, inserted, reordered, cut off or put back.
    Verify(VerifyArgs),
    /// Print the public keys that verify signed heads.
    PublicKey(PublicKeyArgs),
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    /// The file.
    #[arg(long, default_value = "audit.jsonl")]
    file: PathBuf,
    /// How many of the last records to begin with.
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    /// Go on with records as they are written, across rotation.
    #[arg(long, short = 'f')]
    follow: bool,
    /// Print the records themselves.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The files, oldest first.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The secret keys: checks every record [default: audit.key, unless --public-key is given].
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    key_file: Option<PathBuf>,
    /// A public key: checks everything up to the last signed head. May be repeated.
    #[arg(long, value_name = "KEY")]
    public_key: Vec<String>,
    /// A signed head that was kept [default: the last FILE with `.head` behind its name, if there is one].
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PublicKeyArgs {
    /// The secret keys.
    #[arg(long, value_name = "FILE", default_value = "audit.key")]
    key_file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, or when the log is not as it was written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match args.command {
        AuditCommand::Tail(args) => tail(&args, &mut out),
        AuditCommand::Verify(args) => verify(&args, &mut out),
        AuditCommand::PublicKey(args) => {
            for (epoch, key) in AuditKeys::load(&args.key_file)?.public_keys() {
                writeln!(out, "{key}  epoch {epoch}, id {}", key.id())?;
            }
            Ok(())
        }
    }
}

fn verify(args: &VerifyArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let mut verifier = Verifier::new(trust(args)?);
    for path in heads(args) {
        let head =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if verifier.published_head(&head).is_none() {
            bail!("{} is no head signed by a trusted key", path.display());
        }
    }
    for path in &args.files {
        let context = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(context)?;
        verifier
            .file(&path.display().to_string(), BufReader::new(file))
            .with_context(context)?;
    }
    let report = verifier.finish();
    if args.json {
        writeln!(out, "{}", as_json(&report))?;
    } else {
        out.write_all(as_text(&report).as_bytes())?;
    }
    out.flush()?;
    match report.findings.len() as u64 + report.more_findings {
        0 => Ok(()),
        1 => bail!("the audit log is not as it was written: 1 finding"),
        count => bail!("the audit log is not as it was written: {count} findings"),
    }
}

fn trust(args: &VerifyArgs) -> anyhow::Result<Trust> {
    if args.public_key.is_empty() {
        let path = args.key_file.as_deref().unwrap_or(Path::new("audit.key"));
        return Ok(Trust::Keys(Arc::new(AuditKeys::load(path)?)));
    }
    let keys: Result<Vec<PublicKey>, _> = args.public_key.iter().map(|key| key.parse()).collect();
    Ok(Trust::PublicKeys(keys?))
}

fn heads(args: &VerifyArgs) -> Vec<PathBuf> {
    if !args.head.is_empty() {
        return args.head.clone();
    }
    let beside = args.files.last().map(|path| {
        let mut name = path.clone().into_os_string();
        name.push(".head");
        PathBuf::from(name)
    });
    beside.into_iter().filter(|path| path.exists()).collect()
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let _ = writeln!(text, "{finding}");
    }
    if report.more_findings > 0 {
        let _ = writeln!(text, "and {} more findings", report.more_findings);
    }
    for seq in &report.sealed {
        let _ = writeln!(
            text,
            "note: a record that was torn when the server was killed is sealed by record {seq}"
        );
    }
    let (Some(first), Some(last)) = (report.first, report.last) else {
        let _ = writeln!(text, "no records");
        return text;
    };
    let signed = report.signed_through.unwrap_or(0);
    let _ = write!(text, "{} records, {first} to {last}", report.records);
    let _ = match (signed, report.closed) {
        (0, _) => writeln!(text, ", none of them signed"),
        (_, true) => writeln!(text, ", closed and signed"),
        (signed, false) => writeln!(text, ", signed up to {signed}"),
    };
    text
}

fn as_json(report: &Report) -> Value {
    let findings = report.findings.iter().map(|finding| {
        serde_json::json!({
            "file": finding.file, "line": finding.line, "finding": finding.kind.to_string(),
        })
    });
    serde_json::json!({
        "intact": report.is_intact(),
        "records": report.records,
        "first": report.first,
        "last": report.last,
        "signed_through": report.signed_through,
        "closed": report.closed,
        "sealed": report.sealed,
        "findings": findings.collect::<Vec<_>>(),
        "more_findings": report.more_findings,
    })
}

fn tail(args: &TailArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", args.file.display());
    let mut reader = BufReader::new(File::open(&args.file).with_context(context)?);
    let mut last = std::collections::VecDeque::new();
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line).with_context(context)? {
        last.push_back(std::mem::take(&mut line));
        if last.len() > args.lines {
            last.pop_front();
        }
    }
    for line in last {
        show(&line, args.json, out)?;
    }
    out.flush()?;
    if args.follow {
        follow(args, reader, line, out)?;
    }
    Ok(())
}

/// Until it is interrupted.
fn follow(
    args: &TailArgs,
    mut reader: BufReader<File>,
    mut line: Vec<u8>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    loop {
        while next_line(&mut reader, &mut line)? {
            show(&line, args.json, out)?;
            line.clear();
        }
        out.flush()?;
        if is_another(&args.file, reader.get_ref()) {
            // What was written before the file was renamed.
            while next_line(&mut reader, &mut line)? {
                show(&line, args.json, out)?;
                line.clear();
            }
            line.clear();
            if let Ok(file) = File::open(&args.file) {
                reader = BufReader::new(file);
                reader.seek(SeekFrom::Start(0))?;
                continue;
            }
        }
        thread::sleep(FOLLOW);
    }
}

/// Adds to `line` up to a line feed, and says whether there was one. Without one the rest comes later.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    use io::Read;
    reader
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', line)?;
    Ok(line.ends_with(b"\n") || line.len() as u64 >= MAX_LINE_BYTES)
}

fn is_another(path: &Path, open: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(path), open.metadata()) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) != (here.dev(), here.ino()),
        _ => false,
    }
}

fn show(line: &[u8], json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        return out.write_all(line);
    }
    match serde_json::from_slice::<Value>(line) {
        Ok(record) => writeln!(out, "{}", row(&record)),
        Err(_) => writeln!(out, "(not a record, {} bytes)", line.len()),
    }
}

/// Time, event, outcome, who, from where, in which session, and what else it says.
fn row(record: &Value) -> String {
    let text = |pointer: &str| {
        record
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("-")
    };
    let either = |one: &str, other: &str| match text(one) {
        "-" => text(other).to_owned(),
        found => found.to_owned(),
    };
    let outcome = match record["status_id"].as_u64() {
        Some(1) => "ok",
        Some(2) => "FAILED",
        _ => "-",
    };
    let session: String = either("/session/uid", "/actor/session/uid")
        .chars()
        .take(8)
        .collect();
    let mut row = format!(
        "{:24} {:17} {:6} {:20} {:15} {:8}",
        text("/time_dt"),
        text("/metadata/event_code"),
        outcome,
        either("/user/uid", "/actor/user/uid"),
        text("/src_endpoint/ip"),
        session,
    );
    for (name, value) in [
        ("tool", text("/api/operation")),
        ("detail", text("/status_detail")),
        ("message", text("/message")),
    ] {
        if value != "-" {
            let _ = write!(row, " {name}={value}");
        }
    }
    for (name, value) in record["unmapped"].as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "prev" | "mac" | "sig") {
            let _ = write!(
                row,
                " {name}={}",
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            );
        }
    }
    // The log escapes what acts on a terminal; reading it undoes that.
    row.chars()
        .flat_map(|char| {
            let acts = char.is_control() || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if acts { char.escape_unicode().collect::<Vec<_>>() } else { vec![char] }
        })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_matters_and_nothing_acts_on_the_terminal() {
        let record = serde_json::json!({
            "time_dt": "2026-03-01T12:00:00.042Z",
            "status_id": 2,
            "status_detail": "expired",
            "user": {"uid": "\u{1b}[31mada\n"},
            "session": {"uid": "00000000000000000000000000000007"},
            "src_endpoint": {"ip": "192.0.2.1"},
            "metadata": {"event_code": "auth_failed"},
            "unmapped": {"method": "jwt", "prev": "x", "mac": "y"},
        });
        let row = row(&record);
        assert!(!row.contains(char::is_control), "{row:?}");
        for part in [
            "auth_failed",
            "FAILED",
            "ada",
            "192.0.2.1",
            "00000000",
            "detail=expired",
            "method=jwt",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert!(!row.contains("mac="));
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let mut line = Vec::new();
        assert!(!next_line(&mut &b"{\"a\""[..], &mut line).unwrap());
        assert!(next_line(&mut &b":1}\nmore"[..], &mut line).unwrap());
        assert_eq!(line, b"{\"a\":1}\n");
    }

    #[tokio::test]
    async fn a_log_is_verified_and_an_edit_is_reported_with_its_line() {
        use llmrtc_core::{clock::SystemClock, tasks::Tasks};
        use llmrtc_security::audit::{Action, Audit, AuditConfig, AuditEvent, AuditOptions};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let key_file = folder.path().join("audit.key");
        let config = AuditConfig {
            path: path.clone(),
            key_file: key_file.clone(),
            ..AuditConfig::default()
        };
        let tasks = Tasks::root("test");
        let audit = Audit::start(
            &config,
            AuditOptions::default(),
            Arc::new(SystemClock),
            &tasks,
        )
        .await
        .unwrap();
        audit.record(AuditEvent::new(Action::TicketRedeemed));
        tasks.shutdown(Duration::from_secs(30)).await;

        let args = |public_key: Vec<String>| VerifyArgs {
            files: vec![path.clone()],
            key_file: public_key.is_empty().then(|| key_file.clone()),
            public_key,
            head: Vec::new(),
            json: false,
        };
        let public = AuditKeys::load(&key_file)
            .unwrap()
            .public_keys()
            .next()
            .unwrap()
            .1
            .to_string();
        for args in [args(Vec::new()), args(vec![public])] {
            let mut out = Vec::new();
            verify(&args, &mut out).unwrap();
            assert_eq!(
                String::from_utf8(out).unwrap(),
                "3 records, 1 to 3, closed and signed\n"
            );
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("ticket_redeemed", "ticket_renewed!")).unwrap();
        let mut out = Vec::new();
        let error = verify(&args(Vec::new()), &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the audit log is not as it was written: 1 finding"
        );
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.starts_with(&format!("{}:2: record 2 was edited", path.display())),
            "{out}"
        );
    }
}
