# fish completion for wgq(1); it does not need wg(8).
# Made by `python -m wgquick.cli.completions completions`: change wgquick/options.py or wgquick/cli/completions.py.

# The names of /etc/wireguard/*.conf, as `wgq up NAME` takes them, if wg-quick(8) allows them.
function __wgq_configurations
    for file in /etc/wireguard/*.conf
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})\.conf$' '$1' -- $file
    end
    __fish_complete_suffix .conf
end

# Live interfaces: links of the kernel's type, and the control sockets of userspace implementations.
function __wgq_interfaces
    for socket in /var/run/wireguard/*.sock
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})\.sock$' '$1' -- $socket
    end
    for link in (grep -lsx DEVTYPE=wireguard /sys/class/net/*/uevent)
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})/uevent$' '$1' -- $link
    end
end

set -l verbs up down reload try confirm plan diff save strip check allowed-ips doctor rehearse trace show exec status wait watch metrics
complete -c wgq -f
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a up -d 'Bring an interface up'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a down -d 'Take an interface down'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a reload -d 'Apply a file\'s changes to a live interface'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a try -d 'Make a change, and roll it back unless it is confirmed'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a confirm -d 'Keep a change that is on trial'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a plan -d 'Show what up, down or reload would do'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a diff -d 'Show how a live interface differs from its file'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a save -d 'Write the state of an interface to its file'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a strip -d 'Print the part of a file that `wg setconf\' reads'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a check -d 'Find mistakes in files and between them'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a allowed-ips -d 'Subtract networks and print AllowedIPs'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a doctor -d 'Find out why a tunnel does not work'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a rehearse -d 'Test on simulated hosts who reaches whom'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a trace -d 'Show the path of a packet'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a show -d 'Print what `wg show\' prints'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a exec -d 'Run a command in the network namespace of an interface'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a status -d 'Show the state of interfaces and peers'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a wait -d 'Wait for a handshake'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a watch -d 'Restore what other programs remove from tunnels'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a metrics -d 'Print metrics of interfaces and peers for Prometheus'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -l version -d 'Print the version'
complete -c wgq -l help -d 'Print the help'
complete -c wgq -n '__fish_seen_subcommand_from up' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from down' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from reload' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from try' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from confirm' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from plan' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from diff' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from save' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from strip' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from check' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from allowed-ips' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from doctor' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from rehearse' -a '(__wgq_configurations)'
complete -c wgq -n '__fish_seen_subcommand_from show' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from exec' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from status' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from wait' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from watch' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from metrics' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from try; and not __fish_seen_subcommand_from up reload down' -a 'up reload down'
complete -c wgq -n '__fish_seen_subcommand_from plan; and not __fish_seen_subcommand_from up down reload' -a 'up down reload'
complete -c wgq -n '__fish_seen_subcommand_from up reload try plan' -l backend -x -a 'auto kernel userspace' -d 'Which WireGuard implementation to use'
complete -c wgq -n '__fish_seen_subcommand_from up reload try plan diff' -l firewall -x -a 'auto nft iptables' -d 'Which firewall a full tunnel uses'
complete -c wgq -n '__fish_seen_subcommand_from up down reload try plan diff save' -l dns -x -a 'auto resolvconf resolved file off' -d 'How to set DNS'
complete -c wgq -n '__fish_seen_subcommand_from up down reload try plan diff strip' -l name -x -d 'Name of the interface, in place of the file\'s'
complete -c wgq -n '__fish_seen_subcommand_from up try plan' -l kill-switch -d 'Block traffic outside the tunnel until it is taken down'
complete -c wgq -n '__fish_seen_subcommand_from up try plan' -l exclude -x -d 'Networks that stay outside the tunnel; `lan\' means connected private networks'
complete -c wgq -n '__fish_seen_subcommand_from up try plan' -l keep-inbound -d 'Answer inbound connections on the link they arrived on'
complete -c wgq -n '__fish_seen_subcommand_from up try plan' -l netns -x -d 'Put the interface into a network namespace, which is created if needed'
complete -c wgq -n '__fish_seen_subcommand_from up reload try plan' -l strict -d 'Fail if IPv6 is disabled or src_valid_mark cannot be set'
complete -c wgq -n '__fish_seen_subcommand_from up down reload try plan' -l force -d 'Continue if a PreDown hook or saving fails; reload despite SaveConfig'
complete -c wgq -n '__fish_seen_subcommand_from up' -l ensure -d 'Apply the file\'s changes if the interface is up already; do nothing if there are none'
complete -c wgq -n '__fish_seen_subcommand_from reload' -l dry-run -d 'Print the changes without making them'
complete -c wgq -n '__fish_seen_subcommand_from up reload try' -l or-restart -d 'Restart the interface if it cannot be changed while it is up'
complete -c wgq -n '__fish_seen_subcommand_from up reload try plan diff' -l keep-foreign -d 'Keep peers that are in neither the file nor the journal'
complete -c wgq -n '__fish_seen_subcommand_from up reload try plan diff check allowed-ips doctor rehearse trace status watch' -l json -d 'Print JSON'
complete -c wgq -n '__fish_seen_subcommand_from plan' -l offline -d 'Read only the file: values that depend on the host stay unknown'
complete -c wgq -n '__fish_seen_subcommand_from check' -l live -d 'Also compare the files with this host'
complete -c wgq -n '__fish_seen_subcommand_from doctor' -l bundle -d 'Print a report to share, with keys, addresses and names replaced'
complete -c wgq -n '__fish_seen_subcommand_from check doctor' -l fix -d 'Fix findings that have exactly one remedy'
complete -c wgq -n '__fish_seen_subcommand_from watch' -l once -d 'Restore what is missing now, and exit'
complete -c wgq -n '__fish_seen_subcommand_from watch' -l check-only -d 'Print what is missing, and change nothing'
complete -c wgq -n '__fish_seen_subcommand_from watch' -l exec -x -d 'Run a shell command for each event'
complete -c wgq -n '__fish_seen_subcommand_from status' -l watch -d 'Update every second, with rates, until interrupted'
complete -c wgq -n '__fish_seen_subcommand_from metrics' -l names -x -a 'mdlayher mindflavor' -d 'Which exporter\'s metric names to use'
complete -c wgq -n '__fish_seen_subcommand_from metrics' -l textfile -x -d 'Write the metrics to a file, atomically'
complete -c wgq -n '__fish_seen_subcommand_from doctor' -l listen -x -d 'Listen SECONDS for handshakes'
complete -c wgq -n '__fish_seen_subcommand_from metrics' -l listen -x -d 'Serve the metrics over HTTP on a loopback address'
complete -c wgq -n '__fish_seen_subcommand_from up reload' -l wait -d 'Wait for a handshake: 15 seconds, or --wait=SECONDS'
complete -c wgq -n '__fish_seen_subcommand_from up reload' -l wait-for -x -d 'The peers to wait for'
complete -c wgq -n '__fish_seen_subcommand_from up reload' -l no-wait-for-dns -d 'Do not wait for endpoint names to resolve: `wgq watch\' sets these endpoints'
complete -c wgq -n '__fish_seen_subcommand_from up' -l or-down -d 'Take the interface down if there is no handshake in time'
complete -c wgq -n '__fish_seen_subcommand_from wait' -l timeout -x -d 'The maximum time'
complete -c wgq -n '__fish_seen_subcommand_from try' -l timeout -x -d 'How long the change is on trial'
complete -c wgq -n '__fish_seen_subcommand_from try' -l confirm-when -x -d 'What confirms the change automatically'
complete -c wgq -n '__fish_seen_subcommand_from confirm' -l extend -x -d 'Let the trial end in SECONDS from now'
complete -c wgq -n '__fish_seen_subcommand_from confirm' -l reject -d 'Roll the change back now'
complete -c wgq -n '__fish_seen_subcommand_from wait' -l for -x -d 'The peers to wait for'
complete -c wgq -n '__fish_seen_subcommand_from status' -l exit-code -d 'Exit 4 if a wanted peer is not up'
complete -c wgq -n '__fish_seen_subcommand_from rehearse' -l host -x -d 'The hosts\' addresses, in place of those in Endpoints'
complete -c wgq -n '__fish_seen_subcommand_from rehearse' -l keep -d 'Keep the hosts for inspection'
complete -c wgq -n '__fish_seen_subcommand_from rehearse' -l no-hooks -d 'Run no hooks'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l from -x -d 'The packet\'s source address'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l mark -x -d 'The packet\'s mark'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l iif -x -d 'The link that the packet arrives on'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l oif -x -d 'The link or VRF that the sending socket is bound to'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l uid -x -d 'The user that owns the sending socket'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l port -x -d 'The protocol and the destination port'
complete -c wgq -n '__fish_seen_subcommand_from doctor trace' -l peer-config -x -d 'The file of the other end'
complete -c wgq -n '__fish_seen_subcommand_from trace' -l probe -d 'Send one packet, and name the nftables rule that drops it'
