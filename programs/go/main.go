// A static Go program: what its runtime asks of the system, one subcommand a topic, the same
// output in every run.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	topics := map[string]func([]string) error{
		"goroutines": goroutines,
		"channels":   channels,
		"maps":       maps,
		"gc":         collector,
		"sleep":      sleep,
		"panics":     panics,
		"preempt":    preempt,
		"deadlock":   deadlock,
		"files":      files,
		"library":    library,
		"stacks":     stacks,
		"exit":       exit,
		"crash":      crash,
	}
	if len(os.Args) < 2 || topics[os.Args[1]] == nil {
		var names []string
		for name := range topics {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintln(os.Stderr, "usage: go-demo", strings.Join(names, "|"))
		os.Exit(2)
	}
	if err := topics[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// goroutines runs many of them over a mutex, a wait group, an atomic, a condition and a pool.
func goroutines([]string) error {
	var mutex sync.Mutex
	var group sync.WaitGroup
	var total, count int64
	for i := 0; i < 10000; i++ {
		group.Add(1)
		go func(i int64) {
			defer group.Done()
			mutex.Lock()
			total += i
			mutex.Unlock()
			atomic.AddInt64(&count, 1)
			if i%100 == 0 {
				runtime.Gosched()
			}
		}(int64(i))
	}
	group.Wait()
	fmt.Println("total", total, "of", count)

	var once sync.Once
	runs := 0
	for i := 0; i < 100; i++ {
		group.Add(1)
		go func() { defer group.Done(); once.Do(func() { runs++ }) }()
	}
	group.Wait()
	fmt.Println("once", runs)

	condition := sync.NewCond(&mutex)
	turn := 0
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func(self int) {
			defer group.Done()
			for round := 0; round < 500; round++ {
				mutex.Lock()
				for turn%4 != self {
					condition.Wait()
				}
				turn++
				condition.Broadcast()
				mutex.Unlock()
			}
		}(i)
	}
	group.Wait()
	fmt.Println("turns", turn)

	// Each on a thread of its own.
	var locked int64
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			runtime.LockOSThread()
			for j := 0; j < 100; j++ {
				atomic.AddInt64(&locked, 1)
				runtime.Gosched()
			}
		}()
	}
	group.Wait()
	fmt.Println("locked", locked)

	var shared sync.RWMutex
	values := map[int]int{}
	for i := 0; i < 4; i++ {
		group.Add(2)
		go func(self int) {
			defer group.Done()
			for j := 0; j < 1000; j++ {
				shared.Lock()
				values[j]++
				shared.Unlock()
			}
		}(i)
		go func() {
			defer group.Done()
			for j := 0; j < 1000; j++ {
				shared.RLock()
				_ = values[j]
				shared.RUnlock()
			}
		}()
	}
	group.Wait()
	fmt.Println("shared", len(values), values[500])
	return nil
}

// channels sends through plain, buffered and chained ones, with select, timeouts and a context.
func channels([]string) error {
	first := make(chan int)
	last := first
	for i := 0; i < 1000; i++ {
		next := make(chan int)
		go func(from, to chan int) {
			for value := range from {
				to <- value + 1
			}
			close(to)
		}(last, next)
		last = next
	}
	go func() {
		for i := 0; i < 20; i++ {
			first <- i
		}
		close(first)
	}()
	sum := 0
	for value := range last {
		sum += value
	}
	fmt.Println("chain", sum)

	work, results := make(chan int, 16), make(chan int, 16)
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for n := range work {
				results <- n * n
			}
		}()
	}
	go func() {
		for i := 0; i < 10000; i++ {
			work <- i
		}
		close(work)
		group.Wait()
		close(results)
	}()
	sum = 0
	for value := range results {
		sum += value
	}
	fmt.Println("workers", sum)

	a, b, done := make(chan int), make(chan int), make(chan bool)
	send := func(to chan int) {
		for i := 0; i < 1000; i++ {
			to <- i
		}
		done <- true
	}
	go send(a)
	go send(b)
	fromA, fromB, ended := 0, 0, 0
	for ended < 2 {
		select {
		case <-a:
			fromA++
		case <-b:
			fromB++
		case <-done:
			ended++
		}
	}
	fmt.Println("select", fromA, fromB)
	select {
	case <-a:
		fmt.Println("unexpected")
	default:
		fmt.Println("nothing there")
	}
	select {
	case <-a:
		fmt.Println("unexpected")
	case <-time.After(10 * time.Millisecond):
		fmt.Println("timeout")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	fmt.Println("context:", ctx.Err())
	return nil
}

// maps fills, reads, deletes and sorts.
func maps([]string) error {
	counts := map[string]int{}
	seed := uint64(5)
	for i := 0; i < 500000; i++ {
		seed = seed*6364136223846793005 + 1442695040888963407
		counts["key "+strconv.Itoa(int(seed>>44)%20000)]++
	}
	keys := make([]string, 0, len(counts))
	for key := range counts {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool {
		if counts[keys[i]] != counts[keys[j]] {
			return counts[keys[i]] > counts[keys[j]]
		}
		return keys[i] < keys[j]
	})
	for _, key := range keys[:3] {
		fmt.Println(key, counts[key])
	}
	for key := range counts {
		if counts[key]%2 == 0 {
			delete(counts, key)
		}
	}
	fmt.Println(len(keys), "keys,", len(counts), "of them odd")
	var shared sync.Map
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func(self int) {
			defer group.Done()
			for j := 0; j < 5000; j++ {
				shared.Store(j*4+self, j)
			}
		}(i)
	}
	group.Wait()
	sum := 0
	shared.Range(func(_, value any) bool { sum += value.(int); return true })
	fmt.Println("shared sum", sum)
	return nil
}

type node struct {
	left, right *node
	room        [5]uint64
}

func tree(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{left: tree(depth - 1), right: tree(depth - 1)}
}

func (n *node) count() int {
	if n == nil {
		return 0
	}
	return 1 + n.left.count() + n.right.count()
}

// collector allocates several hundred MiB in all while little of it lives.
func collector([]string) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	kept := tree(14)
	var group sync.WaitGroup
	var nodes int64
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < 40; round++ {
				atomic.AddInt64(&nodes, int64(tree(12).count()))
			}
		}()
	}
	var window [16][]byte
	sum := 0
	for round := 0; round < 400; round++ {
		block := bytes.Repeat([]byte{byte(round)}, 1<<20)
		window[round%16] = block
		sum += int(window[(round*7)%(min(round, 15)+1)][12345])
	}
	group.Wait()
	fmt.Println("nodes", nodes, "sum", sum)
	finalized := make(chan bool, 1)
	func() {
		object := &node{}
		runtime.SetFinalizer(object, func(*node) { finalized <- true })
	}()
	for i := 0; i < 50; i++ {
		runtime.GC()
		select {
		case <-finalized:
			fmt.Println("finalized")
			i = 50
		case <-time.After(20 * time.Millisecond):
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	fmt.Println("kept", kept.count())
	fmt.Println("more than 400 MiB in all:", after.TotalAlloc-before.TotalAlloc > 400<<20)
	fmt.Println("collected more than once:", after.NumGC-before.NumGC > 1)
	fmt.Println("little lives:", after.HeapAlloc < 100<<20)
	runtime.KeepAlive(window)
	window = [16][]byte{}
	debug.FreeOSMemory()
	return nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// sleep checks times: none too short, none far too long.
func sleep([]string) error {
	start := time.Now()
	time.Sleep(30 * time.Millisecond)
	slept := time.Since(start)
	fmt.Println("long enough:", slept >= 30*time.Millisecond, "not far too long:", slept < 3*time.Second)
	start = time.Now()
	var group sync.WaitGroup
	for i := 0; i < 1000; i++ {
		group.Add(1)
		go func() { defer group.Done(); time.Sleep(50 * time.Millisecond) }()
	}
	group.Wait()
	fmt.Println("a thousand at once:", time.Since(start) < 3*time.Second)
	order := make(chan int, 5)
	for i := 5; i > 0; i-- {
		i := i
		time.AfterFunc(time.Duration(i)*40*time.Millisecond, func() { order <- i })
	}
	for i := 0; i < 5; i++ {
		fmt.Print(<-order, " ")
	}
	fmt.Println()
	ticker := time.NewTicker(2 * time.Millisecond)
	for i := 0; i < 10; i++ {
		<-ticker.C
	}
	ticker.Stop()
	timer := time.NewTimer(time.Hour)
	fmt.Println("stopped:", timer.Stop())
	fmt.Println("a sensible year:", time.Now().Year() >= 2024)
	fmt.Println(time.Unix(1000000000, 0).UTC().Format(time.RFC1123))
	return nil
}

type thing struct {
	pad   [100]int
	value int
}

func try(name string, run func()) {
	defer func() {
		value := recover()
		err, isError := value.(runtime.Error)
		fmt.Println(name+":", value, isError && err != nil)
	}()
	run()
}

// panics recovers from them, among them those that begin as a signal.
func panics([]string) error {
	var none *thing
	var empty map[string]int
	zero := len(empty)
	values := []int{1, 2, 3}
	var any any = "text"
	try("nothing", func() {})
	try("plain", func() { panic("on purpose") })
	try("error", func() { panic(errors.New("an error")) })
	try("nil read", func() { fmt.Println(none.value) })
	try("nil write", func() { none.value = 1 })
	try("division", func() { fmt.Println(1 / zero) })
	try("index", func() { fmt.Println(values[zero+7]) })
	try("slice", func() { fmt.Println(values[zero+2 : zero+1]) })
	try("map", func() { empty["x"] = 1 })
	try("assertion", func() { fmt.Println(any.(int)) })
	try("nested", func() {
		defer func() { panic(fmt.Sprint("again after ", recover())) }()
		panic("first")
	})
	recovered := 0
	for i := 0; i < 1000; i++ {
		func() {
			defer func() {
				if recover() != nil {
					recovered++
				}
			}()
			none.value++
		}()
	}
	fmt.Println("nil", recovered, "times")
	var group sync.WaitGroup
	var inside int64
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			defer func() {
				if recover() != nil {
					atomic.AddInt64(&inside, 1)
				}
			}()
			none.value = 3
		}()
	}
	group.Wait()
	fmt.Println("in goroutines", inside)
	// A fault elsewhere than at null ends a Go program, unless it asks for a panic.
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	faults := func() (fault bool) {
		defer func() { fault = recover() != nil }()
		page[100] = 1
		return false
	}
	fmt.Println("a page that is read-only:", page[100], faults())
	return syscall.Munmap(page)
}

var spins uint64

// preempt has goroutines that never call anything: only a signal can stop them.
func preempt([]string) error {
	runtime.GOMAXPROCS(1)
	for i := 0; i < 3; i++ {
		go func() {
			for {
				spins++
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	sum := 0
	for i := 0; i < 10; i++ {
		time.Sleep(time.Millisecond)
		sum += i
	}
	runtime.GC()
	fmt.Println("still here", sum)
	runtime.GOMAXPROCS(4)
	done := make(chan int)
	go func() {
		n := 0
		for i := 0; i < 50000000; i++ {
			n += i & 3
		}
		done <- n
	}()
	fmt.Println("another ended", <-done)
	runtime.GC()
	fmt.Println("collected meanwhile")
	return nil
}

// deadlock ends with Go's message, and exit status 2.
func deadlock([]string) error {
	<-make(chan int)
	return nil
}

// stacks grow, are copied and shrink.
func stacks([]string) error {
	var group sync.WaitGroup
	results := make([]int, 8)
	for i := range results {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			results[i] = deep(100000 * (i + 1))
		}(i)
	}
	group.Wait()
	fmt.Println(results)
	return nil
}

//go:noinline
func deep(level int) int {
	var room [8]int
	room[level%8] = level
	if level == 0 {
		return 0
	}
	return deep(level-1) + 1 + room[(level+1)%8]
}

// files reads the folder it is given first, and works in the second if there is one.
func files(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("files needs a folder")
	}
	err := filepath.WalkDir(arguments[0], func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(arguments[0], path)
		if entry.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Printf("%s %d %x\n", name, len(data), sha256.Sum256(data))
		} else {
			fmt.Println(name, entry.Type())
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = os.Open(filepath.Join(arguments[0], "absent"))
	fmt.Println("absent:", errors.Is(err, os.ErrNotExist))
	if len(arguments) < 2 {
		return nil
	}
	path := filepath.Join(arguments[1], "go.txt")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	writer := bufio.NewWriter(file)
	for i := 0; i < 10000; i++ {
		fmt.Fprintln(writer, i)
	}
	if err := writer.Flush(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Printf("written %d %x\n", len(data), sha256.Sum256(data))
	if err := os.MkdirAll(filepath.Join(arguments[1], "a", "b"), 0o700); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(arguments[1], "a", "b", "c")); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(arguments[1], "a")); err != nil {
		return err
	}
	entries, err := os.ReadDir(arguments[1])
	fmt.Println("left", len(entries), err)
	return nil
}

// library uses parts of the standard library, and standard input.
func library([]string) error {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	for i := 0; i < 50000; i++ {
		fmt.Fprintln(writer, "line", i)
	}
	if err := writer.Close(); err != nil {
		return err
	}
	fmt.Println("packed", packed.Len())
	reader, err := gzip.NewReader(&packed)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(reader)
	if err != nil {
		return err
	}
	fmt.Printf("%d %x\n", len(data), sha256.Sum256(data))
	text, err := json.Marshal(map[string]any{"b": []int{1, 2}, "a": "ü\n", "c": 1.5e300})
	fmt.Println(string(text), err)
	number := new(big.Int).MulRange(1, 1000)
	digits := number.String()
	fmt.Println(len(digits), digits[:20])
	lines, scanner := 0, bufio.NewScanner(os.Stdin)
	for scanner.Scan() {
		lines++
	}
	fmt.Println("lines", lines, scanner.Err())
	fmt.Println("GREETING", os.Getenv("GREETING"))
	return nil
}

// exit leaves with a status, without running what is deferred.
func exit(arguments []string) error {
	defer fmt.Println("unexpected")
	code, err := strconv.Atoi(strings.Join(arguments, ""))
	if err == nil {
		os.Exit(code)
	}
	return err
}

// crash is an unrecovered nil dereference: a trace, and exit status 2.
func crash([]string) error {
	var none *thing
	none.value = 1
	return nil
}
