package dd

import (
	"context"
	"errors"
	"io"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// A packedFile reads the packed bytes of an input in pieces that fit direct
// reading.
type packedFile struct {
	in   *input
	buf  []byte
	rest []byte // of buf, not yet given
}

func (f *packedFile) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		n, err := f.in.read(f.buf)
		switch {
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		f.rest = f.buf[:n]
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *packedFile) close() { release(f.buf) }

// packedPiece is how many packed bytes are read at a time.
const packedPiece = 1 << 20

// ahead is what unpacking several blocks at a time may take, in bytes.
const ahead = 32 << 20

// unpack begins to unpack the input if its name says that it is packed and its
// content is. Only a file can be looked at without taking something from it.
func (in *input) unpack() error {
	f := in.job.unpacks()
	if f == codec.Raw || in.size <= 0 {
		return nil
	}
	buf, err := buffer(packedPiece, "input")
	if err != nil {
		return err
	}
	n, err := preadFD(in.fd, buf[:block.Align], in.offset)
	if err != nil || codec.Recognise(buf[:min(n, codec.HeadLen)]) != f {
		release(buf)
		if err == nil && in.job.Status != StatusNone {
			in.rep.say("%s: its content is not in the format %s; the bytes are copied as they are", quoteBare(in.name), f)
		}
		return nil // a read error is met again, and said as dd does
	}
	in.file = &packedFile{in: in, buf: buf}
	in.warn = false
	if in.packed, err = codec.NewReader(in.file, f, codec.ReadOptions{Ahead: ahead}); err != nil {
		in.file.close()
		in.packed = nil
		return err
	}
	in.size, in.plain = -1, false
	return nil
}

// A packer is a sink that packs once for all outputs of one format.
type packer struct {
	rep    *report
	format codec.Format
	outs   []*output
	counts *counts // what goes in: that is what was copied
	asRead bool

	w   io.WriteCloser
	fan *fan // to the outputs, if there are several
}

// begin begins to pack. All processors are used.
func (p *packer) begin() (err error) {
	to := io.Writer(p.outs[0])
	if len(p.outs) > 1 {
		sinks := make([]sink, len(p.outs))
		for i, o := range p.outs {
			sinks[i] = packedOutput{o}
		}
		p.fan = newFan(sinks, packedPiece, buffers(packedPiece))
		p.fan.start()
		to = fanWriter{p.fan}
	}
	if p.w, err = codec.NewWriter(to, p.format, codec.WriteOptions{}); err != nil {
		return p.fail(err)
	}
	return nil
}

func (p *packer) take(data []byte, rec int) error {
	if p.asRead {
		for n := len(data); n > 0; n -= rec {
			p.counts.record(min(n, rec))
		}
	} else {
		p.counts.gather(len(data))
	}
	_, err := p.w.Write(data)
	return p.fail(err)
}

// fail says what is wrong with packing, unless an output has said it.
func (p *packer) fail(err error) error {
	if err == nil || errors.Is(err, errWrite) {
		return err
	}
	p.rep.fail(err, "packing %s", quoteName(p.outs[0].name))
	return errWrite
}

// finish completes the packed stream.
func (p *packer) finish() error {
	err := p.fail(p.w.Close())
	p.w = nil
	if p.counts.end(); err != nil || p.fan != nil {
		return err
	}
	return p.outs[0].finish()
}

func (p *packer) close() error {
	if p.w != nil {
		_ = p.w.Close() // to end what it has running: the error came before
	}
	if p.fan != nil {
		return p.fan.wait()
	}
	return closeAll(p.outs)
}

// closeAll closes sinks and returns the last error.
func closeAll[S sink](sinks []S) (err error) {
	for _, s := range sinks {
		if failed := s.close(); failed != nil {
			err = failed
		}
	}
	return err
}

// A packedOutput is an output as a sink of packed bytes.
type packedOutput struct{ *output }

func (o packedOutput) begin() error                  { return nil }
func (o packedOutput) take(data []byte, _ int) error { return o.gather(data) }

// A fanWriter gives what is written to it to all sinks of a fan.
type fanWriter struct{ *fan }

func (w fanWriter) Write(p []byte) (int, error) {
	if err := w.copy(context.Background(), p, len(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}
