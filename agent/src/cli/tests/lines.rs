//! Every command line that scripts depend on parses, and the whole command is consistent.

use super::*;

/// One line a command; a bar separates what may follow the words before the first bar.
const LINES: &str = "
    demo | demo --disk image.qcow2 --fast
    agent --config r1.toml
    vm-service --config r1.toml
    config check r1.toml
    cluster init --name Cluster-R --cap r-broker-cap.contoso.com
    cluster join TOKEN | cluster status | cluster recover | cluster leave
    token create | token create --witness --ttl 1h --replaces r2 | token list | token revoke 000000000000001f
    node list | node show r1 | node drain r1 | node restore r1 | node remove r1 | node remove r1 --wait --timeout 1m
    broker status | broker move r2
    settings show | settings set placement=random | settings history | settings watch | settings watch --from 4
    settings set --expect 12 --wait replication_enabled=true default_storage_location= --timeout 30s
    authorization list | authorization remove p-broker-cap.contoso.com
    authorization add p-broker-cap.contoso.com --storage default
    authorization add *.contoso.com --storage default --trust-group T
    peer invite | peer accept CODE | peer list | peer remove p-broker-cap.contoso.com
    vm list | vm show web | vm locate VirtualMachine_Workload | vm disable web --wait
    vm enable VirtualMachine_Workload --to r-broker-cap.contoso.com
    vm enable VirtualMachine_Workload --to r-broker-cap.contoso.com --frequency 30 --recovery-points 4 --wait
    vm pause web | vm resume web | vm resync web | vm seed export web DIR
    vm move VirtualMachine_Workload --to r2 | vm move web --to r2 --wait --timeout 15m
    point list web | point export web DIR | point export web --point 5 DIR | point verify web --point 5 --wait | point diff web 1 2
    failover test web --stop | failover planned web --dry-run | failover unplanned web --point 3 --dry-run
    failover test web --point 3 --wait | failover planned web --yes --wait | failover unplanned web --name web --force
    failover complete web | failover cancel web | failover reverse web | failover resolve web --keep here | failover discard web --branch 0d
    failover status web
    network show web | network set web --adapter eth0 --ipv4 10.9.0.5/24 --gateway 10.9.0.1 --dns 10.9.0.53
    network set web --adapter eth0 --ipv4 10.9.0.5/24 --ipv4 10.9.0.6/24 --ipv6 fd00:9::5/64 --gateway fe80::1
    network clear web --adapter eth0 --ipv4 | network clear web --adapter 52:54:00:aa:bb:01
    network map add 10.1.0.0/16 10.9.0.0/16 --peer p-broker-cap.contoso.com | network map list
    network map remove 10.1.0.0/16
    event tail | event tail --recent 100 --no-follow | doctor | doctor --timeout 30s
    completions bash | completions zsh | completions fish
    vm list -o json | -o json vm list | --socket /run/x.sock vm list -o table | failover status web -o json
";

#[test]
fn every_line_parses() {
    let command = super::super::command(&Remembered::default());
    let mut count = 0;
    for line in LINES.lines().flat_map(|line| line.split('|')).map(str::trim).filter(|line| !line.is_empty()) {
        let words = ["landfall"].into_iter().chain(line.split_whitespace());
        if let Err(error) = command.clone().try_get_matches_from(words) {
            panic!("{line}: {error}");
        }
        count += 1;
    }
    assert_eq!(count, 84, "a line was lost");
}

#[test]
fn the_command_is_consistent_and_every_flag_says_an_example_or_a_default() {
    let command = super::super::command(&Remembered::default());
    command.clone().debug_assert();
    let socket = command.get_arguments().find(|argument| argument.get_id() == "socket").unwrap();
    assert_eq!(socket.get_env().unwrap(), "LANDFALL_SOCKET");
    let mut flags = 0;
    walk(&command, &mut |verb, argument| {
        if argument.is_positional() || matches!(argument.get_id().as_str(), "help" | "version" | "config") {
            return;
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Default: ") || help.contains("Example: "), "{verb}: {argument}: {help}");
        flags += 1;
    });
    assert!(flags > 20, "{flags}");
}

fn walk(command: &clap::Command, look: &mut impl FnMut(&str, &clap::Arg)) {
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        look(command.get_name(), argument);
    }
    for verb in command.get_subcommands() {
        assert!(verb.get_about().is_some() || verb.is_hide_set(), "{} has no help", verb.get_name());
        walk(verb, look);
    }
}
