# Asks for all links (RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP) and does not read the answer.
socket our $netlink, 16, 3, 0 or die $!;
bind $netlink, pack('S x2 L L', 16, 0, 0) or die $!;
send $netlink, pack('L S S L L a16', 32, 18, 0x301, 1, 0, ''), 0 or die $!;
stay();
