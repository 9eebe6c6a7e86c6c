# fish completion for wgq(1); needs no wg(8).

# The names of /etc/wireguard/*.conf, as `wgq up NAME` takes them; no others, by wg-quick(8)'s rule.
function __wgq_configurations
    for file in /etc/wireguard/*.conf
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})\.conf$' '$1' -- $file
    end
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

set -l verbs up down save strip
complete -c wgq -f
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a up -d 'Bring an interface up from its configuration'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a down -d 'Take an interface down and undo what up did'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a save -d 'Write the live state to the configuration file'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a strip -d 'Print what wg(8) understands of a configuration'
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -l version -d 'Show the version'
complete -c wgq -l help -d 'Show how it is used'
complete -c wgq -n '__fish_seen_subcommand_from up strip' -a '(__wgq_configurations; __fish_complete_suffix .conf)'
complete -c wgq -n '__fish_seen_subcommand_from down save' -a '(__wgq_interfaces)'
complete -c wgq -n '__fish_seen_subcommand_from up' -l backend -x -a 'auto kernel userspace' -d 'Which WireGuard implementation'
complete -c wgq -n '__fish_seen_subcommand_from up' -l firewall -x -a 'auto nft iptables' -d 'How firewall rules are set'
complete -c wgq -n '__fish_seen_subcommand_from up down save' -l dns -x -a 'auto resolvconf resolved file off' -d 'How DNS is set'
complete -c wgq -n '__fish_seen_subcommand_from up down strip' -l name -x -d 'The interface of a configuration read from standard input'
complete -c wgq -n '__fish_seen_subcommand_from up' -l strict -d 'Fail where a part cannot be set up'
complete -c wgq -n '__fish_seen_subcommand_from down' -l force -d 'Go on where a PreDown hook or saving fails'
