"""Run by the Python that has GNU Radio: a flow graph that counts 0, 1, 2, ... in I into a sink.

gnuradio_graph.py zmq ADDRESS TAGS KEY ITEMS TYPE: a ZMQ PUB Sink, the receiver's tags on items 0 (rx_rate, rx_freq, rx_time) and 6000 (rx_time, behind
    an overflow of 500 samples)
gnuradio_graph.py udp HOST PORT ITEMS: a UDP Sink with a 64-bit sequence number

One line on standard input lets it start.
"""

import sys

import pmt
from gnuradio import blocks, gr


def tag(item, key, value):
    found = gr.tag_t()
    found.offset, found.key, found.value, found.srcid = item, pmt.intern(key), value, pmt.intern("receiver")
    return found


def at_time(seconds, fraction):
    return pmt.make_tuple(pmt.from_uint64(seconds), pmt.from_double(fraction))


def main():
    kind, *arguments = sys.argv[1:]
    graph = gr.top_block()
    if kind == "zmq":
        from gnuradio import zeromq

        address, tags, key, items, form = arguments
        told = [
            tag(0, "rx_rate", pmt.from_double(1e6)),
            tag(0, "rx_freq", pmt.from_double(2.4e9)),
            tag(0, "rx_time", at_time(1_700_000_000, 0.25)),
            tag(6000, "rx_time", at_time(1_700_000_000, 0.2565)),
        ]
        if form == "cf32":
            source = blocks.vector_source_c([complex(number, -number) for number in range(int(items))], False, 1, told)
            size, vector = gr.sizeof_gr_complex, 1
        else:
            values = [each for number in range(int(items)) for each in (number % 30000, -(number % 30000))]
            source = blocks.vector_source_s(values, False, 2, told)
            size, vector = gr.sizeof_short, 2
        sink = zeromq.pub_sink(size, vector, address, 100, tags == "tags", -1, key)
    else:
        from gnuradio import network

        host, port, items = arguments
        source = blocks.vector_source_c([complex(number, -number) for number in range(int(items))])
        size, vector = gr.sizeof_gr_complex, 1
        sink = network.udp_sink(size, 1, host, int(port), 1, 1408, False)
    pace = blocks.throttle(size * vector, 100_000)
    graph.connect(source, pace, sink)
    sys.stdin.readline()
    graph.run()
    sys.stdin.readline()


if __name__ == "__main__":
    main()
