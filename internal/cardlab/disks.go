package cardlab

// This file is the guest's side: the helpers card and cards, which tell where
// the cards are.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// disk is what sysfs tells about a card.
type disk struct {
	index  int    // of the card; -1 if it isn't one
	dev    string // /dev/sda
	port   string // USB port path, 2-1.4
	place  string // as in topology
	serial string
	model  string
	speed  string // of the USB port, Mb/s
	bytes  int64
	ro     bool
}

// blockDevices lists what may be cards, in sysfs.
func blockDevices() []string {
	sd, _ := filepath.Glob("/sys/block/sd*")
	mmc, _ := filepath.Glob("/sys/block/mmcblk*")
	return append(sd, mmc...)
}

// disks lists the cards by index.
func disks() ([]disk, error) {
	b, err := os.ReadFile(guestDir + "/topology")
	if err != nil {
		return nil, err
	}
	index := map[string]int{}
	for i, place := range strings.Fields(string(b)) {
		index[place] = i
	}
	byIndex := make([]disk, len(index))
	for i := range byIndex {
		byIndex[i].index = -1
	}
	for _, block := range blockDevices() {
		// …/0000:00:10.0/usb2/2-1/2-1.4/2-1.4:1.0/host3/target3:0:0/3:0:0:0
		// …/0000:00:18.0/mmc_host/mmc0/mmc0:4567
		path, err := filepath.EvalSymlinks(block + "/device")
		if err != nil {
			continue // it has just gone
		}
		read := func(file string) string {
			b, _ := os.ReadFile(file)
			return strings.TrimSpace(string(b))
		}
		// up returns the part of the path up to the directory that satisfies ok.
		up := func(ok func(dir string) bool) string {
			dir := path
			for dir != "/" && !ok(dir) {
				dir = filepath.Dir(dir)
			}
			return dir
		}
		d := disk{dev: "/dev/" + filepath.Base(block)}
		usb := up(func(dir string) bool { return read(dir+"/devpath") != "" })
		if usb != "/" {
			bus := up(func(dir string) bool { return strings.HasPrefix(filepath.Base(dir), "usb") })
			hctl := filepath.Base(path)
			d.place = filepath.Base(filepath.Dir(bus)) + "/" + read(usb+"/devpath") + "/" + hctl[strings.LastIndex(hctl, ":")+1:]
			d.port, d.serial, d.speed = filepath.Base(usb), read(usb+"/serial"), read(usb+"/speed")
			d.model = read(path+"/vendor") + " " + read(path+"/model")
		} else {
			host := up(func(dir string) bool { return filepath.Base(dir) == "mmc_host" })
			d.place = filepath.Base(filepath.Dir(host)) + "/mmc/0"
			d.port, d.serial, d.speed = "-", read(path+"/serial"), "-"
			d.model = read(path + "/name")
		}
		sectors, _ := strconv.ParseInt(read(block+"/size"), 10, 64)
		d.bytes, d.ro = sectors*512, read(block+"/ro") == "1"
		if i, ok := index[d.place]; ok {
			d.index = i
			byIndex[i] = d
		}
	}
	return byIndex, nil
}

// helper runs a helper's main function.
func helper(f func(args []string) error) {
	if err := f(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
	os.Exit(0)
}

// printCard prints the device of the card with the given index.
func printCard(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: card INDEX")
	}
	i, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	all, err := disks()
	if err != nil {
		return err
	}
	if i < 0 || i >= len(all) || all[i].index < 0 {
		return fmt.Errorf("card %d is not there", i)
	}
	fmt.Println(all[i].dev)
	return nil
}

// printCards prints a table of the cards that are plugged in.
func printCards([]string) error {
	all, err := disks()
	if err != nil {
		return err
	}
	fmt.Printf("%-4s %-12s %-6s %-20s %-5s %-14s %12s %s\n", "CARD", "DEVICE", "PORT", "CONTROLLER/PORT/LUN", "SPEED", "SERIAL", "BYTES", "MODEL")
	for i, d := range all {
		if d.index < 0 {
			continue
		}
		flag := ""
		if d.ro {
			flag = " (read-only)"
		}
		if d.bytes == 0 {
			flag = " (no card)"
		}
		fmt.Printf("%-4d %-12s %-6s %-20s %-5s %-14s %12d %s%s\n", i, d.dev, d.port, d.place, d.speed, d.serial, d.bytes, d.model, flag)
	}
	return nil
}
