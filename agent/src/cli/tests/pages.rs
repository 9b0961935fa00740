//! The pages under docs/ say what the program does.

use std::collections::BTreeSet;

use serde::Serialize;

use super::*;
use crate::surface::settings::SettingsEvent;
use crate::surface::{Failure, samples};

/// Set to anything, makes these tests write their pages instead of comparing them.
const WRITE: &str = "LANDFALL_WRITE_DOCS";

fn path(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page)
}

fn read(page: &str) -> String {
    std::fs::read_to_string(path(page)).unwrap_or_default()
}

fn compare(page: &str, expected: &str) {
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path(page), expected).unwrap();
    }
    assert!(read(page) == expected, "docs/{page} is not what the program does: run this test with {WRITE}=1");
}

/// The text between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The JSON of `shape`, a field of the outermost object a line.
fn json<T: Serialize>(shape: &T) -> String {
    let mut text = String::new();
    for line in serde_json::to_string_pretty(shape).unwrap().lines() {
        let inner = line.trim_start();
        let nested = line.len() - inner.len() > 2 || (line.starts_with("  ") && inner.starts_with([']', '}']));
        let opens = text.ends_with(['[', '{']) || inner.starts_with([']', '}']);
        text.push_str(if !nested {
            "\n"
        } else if opens {
            ""
        } else {
            " "
        });
        text.push_str(if nested { inner } else { line });
    }
    text.trim_start().to_owned()
}

/// The fields of `detail` that `status` has not.
fn details<T: Serialize, S: Serialize>(detail: &T, status: &S) -> String {
    let status = serde_json::to_value(status).unwrap();
    let mut detail = serde_json::to_value(detail).unwrap();
    detail.as_object_mut().unwrap().retain(|field, _| status.get(field).is_none());
    json(&detail)
}

fn example(name: &str) -> String {
    match name {
        "failure" => json(&Failure::from(Refusal::invalid("frequency", "31", "use 30, 300 or 900 seconds"))),
        "change" => json(&SettingsEvent::of_revision(samples::settings().revision, samples::changes()).last().unwrap()),
        "event" => json(&samples::event()),
        "vm_service_status" => json(&samples::vm_service_status()),
        "cluster_status" => json(&samples::cluster_status()),
        "broker_status" => json(&samples::broker_status()),
        "broker_moved" => json(&samples::broker_moved()),
        "cluster_recovered" => json(&samples::cluster_recovered()),
        "cluster_rotation" => json(&samples::cluster_rotation()),
        "cluster_left" => json(&samples::cluster_left()),
        "node_drained" => json(&samples::node_drained()),
        "token_created" => json(&samples::token_created()),
        "token_status" => json(&samples::token_status()),
        "node_status" => json(&samples::node_status()),
        "node_detail" => details(&samples::node_detail(), &samples::node_status()),
        "settings" => json(&samples::settings()),
        "settings_revision" => json(&samples::settings_revision()),
        "authorization" => json(&samples::authorization()),
        "peer_status" => json(&samples::peer_status()),
        "vm_status" => json(&samples::vm_status()),
        "vm_detail" => details(&samples::vm_detail(), &samples::vm_status()),
        "location" => json(&samples::location()),
        "point" => json(&samples::point()),
        "proof" => json(&samples::proof()),
        "exported" => json(&samples::exported()),
        "difference" => json(&samples::difference()),
        "seeded" => json(&samples::seeded()),
        "failover_status" => json(&samples::failover_status()),
        "doctor_report" => json(&samples::doctor_report()),
        "network_status" => json(&samples::network_status()),
        "network_rule" => json(&samples::network_rule()),
        "failover_plan" => json(&samples::failover_plan()),
        other => panic!("docs/api.md asks for an example of {other}"),
    }
}

#[test]
fn the_examples_of_the_api_page_are_the_shapes() {
    let page = read("api.md");
    let (mut filled, mut inside, mut count) = (String::new(), false, 0);
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("<!-- example: ").and_then(|rest| rest.strip_suffix(" -->")) {
            filled.push_str(&format!("{line}\n```json\n{}\n```\n", example(name)));
            (inside, count) = (true, count + 1);
        } else if !inside {
            filled.push_str(&format!("{line}\n"));
        } else if line == "```" {
            inside = false;
        }
    }
    assert_eq!(count, 32, "an example was lost");
    compare("api.md", &filled);
}

#[test]
fn the_routes_of_the_api_page_are_those_that_are_served() {
    let (agent, page) = (Agent::start(), read("api.md"));
    let methods = ["GET ", "POST ", "PUT ", "PATCH ", "DELETE "];
    let table = page.lines().filter(|line| line.starts_with("| `"));
    let routes: BTreeSet<&str> = table
        .flat_map(code)
        .filter(|code| methods.iter().any(|method| code.starts_with(method)) && code.contains("/v1/"))
        .collect();
    assert_eq!(routes.len(), 55, "as many as the trait has operations");
    for route in routes {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{id}", "000000000000001f").replace("{node}", "r1").replace("{vm}", "web");
        let path = path.replace("{primary}", "p.contoso.com").replace("{cap}", "p.contoso.com");
        let client = crate::cli::client::Client::new(agent.socket.clone());
        let asked = agent.runtime.block_on(async {
            if path.ends_with("/watch") || path.ends_with("/events") {
                return client.feed(&path).await.map(drop);
            }
            let patience = crate::cli::client::Patience::Quick;
            client.send(method.parse().unwrap(), &path, None::<&()>, patience).await.map(drop)
        });
        if let Err(refusal) = asked {
            assert_eq!(refusal.code, "invalid_body", "{route}: {refusal}");
        }
    }
}

#[test]
fn every_command_in_the_pages_parses() {
    let command = super::super::command(&Remembered::default());
    let mut count = 0;
    let page = read("hyper-v-cmdlets.md");
    // A bare noun is talked about, not given.
    for line in code(&page).filter(|code| code.starts_with("landfall ") && code.split(' ').count() > 2) {
        let words = line.replace("TOKEN", "t");
        if let Err(error) = command.clone().try_get_matches_from(words.split(' ')) {
            panic!("docs/hyper-v-cmdlets.md: {line}: {error}");
        }
        count += 1;
    }
    assert!(count > 40, "{count}");
}

/// Where the cmdlets page must say something: every replication cmdlet of Hyper-V, and the broker role.
const CMDLETS: &str = "Add-ClusterServerRole Add-ClusterGroup Add-ClusterResource Add-ClusterResourceDependency \
    Start-ClusterGroup Get-VMReplicationServer Set-VMReplicationServer Test-VMReplicationConnection \
    New-VMReplicationAuthorizationEntry Get-VMReplicationAuthorizationEntry Set-VMReplicationAuthorizationEntry \
    Remove-VMReplicationAuthorizationEntry Enable-VMReplication Set-VMReplication Get-VMReplication Remove-VMReplication \
    Start-VMInitialReplication Stop-VMInitialReplication Import-VMInitialReplication Suspend-VMReplication \
    Resume-VMReplication Stop-VMReplication Start-VMFailover Stop-VMFailover Complete-VMFailover Measure-VMReplication \
    Reset-VMReplicationStatistics Set-VMNetworkAdapterFailoverConfiguration Get-VMNetworkAdapterFailoverConfiguration \
    Set-VMNetworkAdapter";

#[test]
fn every_replication_cmdlet_has_its_row() {
    let page = read("hyper-v-cmdlets.md");
    let named: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(code)
        .filter_map(|code| code.split(' ').next())
        .collect();
    for cmdlet in CMDLETS.split_whitespace() {
        assert!(named.contains(cmdlet), "{cmdlet}");
    }
}

#[test]
fn the_command_page_is_current() {
    let mut page = "\
# The command line

    landfall NOUN VERB ...

Any agent takes any command. `--socket PATH` (or `LANDFALL_SOCKET`; default `/run/landfall/landfall.sock`) picks the agent,
and `-o json` prints its answer as one line of JSON ([shapes](api.md#shapes)). Data goes to standard output, talk to
standard error. A failure is one JSON object on standard error, `{\"error\": {class, code, message, field, remedy}}`, where
standard output is no terminal or `-o json` is given, and text else.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused for safety, 4 not found, 5 no quorum or unreachable.

<!-- Written from the declarations in agent/src/cli; a test fails when the two differ. -->
"
    .to_owned();
    let mut command = super::super::command(&Remembered::default()).bin_name("landfall");
    command.build();
    describe(&command, &mut page);
    compare("cli.md", &page);
}

fn describe(command: &clap::Command, page: &mut String) {
    let verbs: Vec<_> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    if !verbs.is_empty() {
        for verb in verbs {
            describe(verb, page);
        }
        return;
    }
    let usage = command.clone().render_usage().to_string().replace("Usage: ", "").replace(" [OPTIONS]", "");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.push_str(&format!("\n## {}\n\n    {usage}\n\n{about}.\n", command.get_bin_name().unwrap_or_default()));
    let global = ["socket", "output", "help", "version"];
    let shown = |argument: &&clap::Arg| !argument.is_hide_set() && !global.contains(&argument.get_id().as_str());
    for (at, argument) in command.get_arguments().filter(shown).enumerate() {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        page.push_str(if at == 0 { "\n" } else { "" });
        page.push_str(&format!("- `{argument}`: {help}\n"));
    }
}
